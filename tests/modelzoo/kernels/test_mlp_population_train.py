"""Training of a population against torch's modules and optimizer, model by model."""

import pytest
import torch
from torch import nn

from modelzoo.kernels.mlp_population_train import ACTIVATIONS, examples, mlp_population_train, reference
from modelzoo.kernels.registry import VARIABLE


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_four_steps_of_sirens_are_those_of_torch(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, backend)
    weights, biases, first, second, inputs, targets, rates, _, activation, frequency = examples(torch.float32, 0)[0]
    assert activation == "sin"
    start = [tensor.clone() for tensor in (*weights, *biases)]
    losses = mlp_population_train(weights, biases, first, second, inputs, targets, rates, 4, activation, frequency)
    for model in range(3):
        own = [tensor[model].clone().requires_grad_() for tensor in start]
        optimizer = torch.optim.Adam(own, lr=float(rates[model]))
        for step in range(4):
            h = inputs
            for layer in range(3):
                h = h @ own[layer].T + own[3 + layer]
                h = torch.sin(frequency * h) if layer < 2 else h
            loss = nn.functional.mse_loss(h, targets[model])
            torch.testing.assert_close(losses[model, step], loss.detach(), rtol=1e-4, atol=1e-6)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for trained, wanted in zip((*weights, *biases), own, strict=True):
            torch.testing.assert_close(trained[model], wanted.detach(), rtol=1e-4, atol=2e-5)
    assert all(torch.equal(a[2], b[2]) for a, b in zip((*weights, *biases), start, strict=True)), "its rate is 0"
    assert not torch.equal(weights[0][0], start[0][0])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_written_gradients_are_those_of_autograd(activation: str) -> None:
    weights, biases, _, _, inputs, targets, *_ = examples(torch.float64, 0)[0]
    for tensor in (*weights, *biases):
        tensor.requires_grad_()
    loss, gradients = reference.gradients(weights, biases, inputs.unsqueeze(0), targets, activation, 1.3)
    wanted = torch.autograd.grad(loss.sum(), [*weights, *biases])
    for got, gradient in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got, gradient)


def test_two_calls_continue_one_another() -> None:
    weights, biases, first, second, inputs, targets, rates, *_ = examples(torch.float64, 0)[2]
    whole = [[tensor.clone() for tensor in tensors] for tensors in (weights, biases, first, second)]
    mlp_population_train(*whole, inputs, targets, rates, 5, batch=2)
    mlp_population_train(weights, biases, first, second, inputs, targets, rates, 2, batch=2)
    mlp_population_train(weights, biases, first, second, inputs, targets, rates, 3, start=2, batch=2)
    for a, b in zip(whole[0] + whole[2], weights + first, strict=True):
        torch.testing.assert_close(a, b)


def test_what_does_not_fit_is_refused() -> None:
    given = examples(torch.float32, 0)[4][:8]
    with pytest.raises(ValueError, match="must be one of relu, tanh, sin, gelu, got 'swish'"):
        mlp_population_train(*given, activation="swish")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a batch of 9 does not fit 4 samples"):
        mlp_population_train(*given, batch=9)
    from modelzoo.kernels.mlp_population_train.triton import refused

    assert refused("train", [torch.empty(1, 65, 2)]) == "1 layers up to 65 wide are too many; the most are 6 and 64"
    assert not refused("train", [torch.empty(1, 64, 2)])
