"""Training of a population against torch's modules and optimizer, model by model."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelzoo.errors import UserError
from modelzoo.kernels import native
from modelzoo.kernels.mlp_population_train import ACTIVATIONS, compiled, examples, mlp_population_train, reference
from modelzoo.kernels.registry import VARIABLE


@pytest.mark.parametrize("backend", ["reference", "compiled", "triton"])
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


@pytest.mark.parametrize("backend", ["reference", "compiled", "triton"])
def test_classifiers_on_minibatches_are_those_of_torch(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, backend)
    draw = torch.Generator().manual_seed(0)
    weights, biases, first, second, inputs, _, rates = population([4, 8, 5], 30)
    labels, rows = (torch.randint(n, size, generator=draw) for n, size in ((5, (30,)), (30, (5, 3, 7))))
    decay = torch.tensor([0.0, 1.0, 10.0, 0.1, 100.0])
    start = [tensor.clone() for tensor in (*weights, *biases)]
    losses = mlp_population_train(
        weights, biases, first, second, inputs, labels, rates, 3, "tanh", rows=rows, weight_decay=decay
    )
    for model in range(5):
        own = [tensor[model].clone().requires_grad_() for tensor in start]
        optimizer = torch.optim.AdamW(own, lr=float(rates[model]), weight_decay=float(decay[model]))
        for step in range(3):
            h = torch.tanh(inputs[rows[model, step]] @ own[0].T + own[2])
            loss = nn.functional.cross_entropy(h @ own[1].T + own[3], labels[rows[model, step]])
            torch.testing.assert_close(losses[model, step], loss.detach(), rtol=1e-4, atol=1e-6)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for trained, wanted in zip((*weights, *biases), own, strict=True):
            torch.testing.assert_close(trained[model], wanted.detach(), rtol=1e-4, atol=2e-5)


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
    rows = torch.randint(5, (3, 5, 2), generator=torch.Generator().manual_seed(0))
    mlp_population_train(*whole, inputs, targets, rates, 5, rows=rows)
    mlp_population_train(weights, biases, first, second, inputs, targets, rates, 2, rows=rows[:, :2])
    mlp_population_train(weights, biases, first, second, inputs, targets, rates, 3, start=2, rows=rows[:, 2:])
    for a, b in zip(whole[0] + whole[2], weights + first, strict=True):
        torch.testing.assert_close(a, b)


def test_what_does_not_fit_is_refused() -> None:
    given = examples(torch.float32, 0)[0][:8]
    with pytest.raises(ValueError, match="must be one of relu, tanh, sin, gelu, got 'swish'"):
        mlp_population_train(*given, activation="swish")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"rows of mlp_population_train must be \[3, 2, batch\], got \[3, 1, 9\]"):
        mlp_population_train(*given, rows=torch.zeros(3, 1, 9, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"inputs \[1, 19, 2\] and targets \[3, 18, 1\] do not fit 3 models"):
        mlp_population_train(*given[:5], given[5][:, 1:], *given[6:])
    with pytest.raises(IndexError, match="rows of mlp_population_train must lie in 0 … 18"):
        compiled.train(
            *given[:4], given[4][None], given[5], *given[6:7] * 2, torch.full((3, 3, 2), 19), 3, "sin", 1.0, 0
        )
    with pytest.raises(IndexError, match="labels of mlp_population_train must lie in 0 … 0"):
        compiled.train(
            *given[:4], given[4][None], torch.ones(1, 19, dtype=torch.int64), *given[6:7] * 2, None, 3, "sin", 1.0, 0
        )
    from modelzoo.kernels.mlp_population_train.triton import refused

    assert refused("train", [torch.empty(1, 65, 2)]) == "1 layers up to 65 wide are too many; the most are 6 and 64"
    assert not refused("train", [torch.empty(1, 64, 2)])


def population(widths: list[int], samples: int, scale: float = 1.0) -> tuple[Any, ...]:
    """Weights, biases, moments, inputs, targets and rates of five models."""
    draw = torch.Generator().manual_seed(0)
    pairs = list(zip(widths[1:], widths[:-1], strict=True))
    weights = [torch.randn(5, o, i, generator=draw) / i**0.5 * scale for o, i in pairs]
    biases = [torch.randn(5, o, generator=draw) / 4 for o, _ in pairs]
    first, second = ([torch.zeros_like(x) for x in (*weights, *biases)] for _ in range(2))
    inputs, targets = torch.randn(samples, widths[0], generator=draw), torch.randn(5, samples, widths[-1], generator=draw)  # fmt: skip
    return weights, biases, first, second, inputs, targets, torch.tensor([1e-3, 2e-3, 3e-3, 1e-4, 1e-3])


def trained(given: tuple[Any, ...], backend: str, patch: pytest.MonkeyPatch, *options: Any) -> tuple[Tensor, Tensor]:
    """Losses and all parameters of every model after training, in float64 for the reference."""
    patch.setenv(VARIABLE, backend)
    dtype = torch.float32 if backend == "compiled" else torch.float64
    own = [[x.to(dtype, copy=True) for x in part] if isinstance(part, list) else part.to(dtype) for part in given]
    losses = mlp_population_train(*own, *options)  # type: ignore[arg-type]
    return losses.double(), torch.cat([x.flatten(1) for x in (*own[0], *own[1])], 1).double()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("widths", "samples"), [([2, 32, 32, 1], 100), ([9, 33, 1, 17, 3], 49), ([70, 3], 7), ([1, 65, 8, 40], 1)]
)
def test_the_compiled_path_follows_double_precision(
    widths: list[int], samples: int, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = population(widths, samples)
    frequency = 3.0 if activation == "sin" else 1.0
    sides = [trained(given, backend, monkeypatch, 20, activation, frequency) for backend in ("compiled", "reference")]
    for got, wanted in zip(*sides, strict=True):
        assert ((got - wanted).norm(dim=1) <= 2e-5 * wanted.norm(dim=1)).all()
    wrong = trained(given, "reference", monkeypatch, 20, activation, 1.01 * frequency)[1]
    if len(widths) > 2:
        assert ((sides[0][1] - wrong).norm(dim=1) > 1e-4 * wrong.norm(dim=1)).any(), "the check sees a wrong frequency"


def test_sine_of_far_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    given = population([2, 8, 1], 30, scale=1.0)
    given[1][0][1] = 2e4  # beyond the three parts of π/2, where float32 still resolves 0.002
    got, wanted = (trained(given, backend, monkeypatch, 1, "sin", 1.0)[0] for backend in ("compiled", "reference"))
    assert ((got - wanted).abs() <= 5e-3 * wanted.abs()).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_diverged_model_disturbs_nobody_in_the_compiled_path(
    activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = population([2, 5, 3, 1], 60)
    calm = trained(given, "compiled", monkeypatch, 8, activation)
    given[5][1, 7] = float("nan")
    given[6][3] = 1e38
    start = torch.cat([x.flatten(1) for x in (*given[0], *given[1])], 1).double()
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        losses, parameters = trained(given, "compiled", monkeypatch, 8, activation)
        assert torch.equal(parameters[[0, 2, 4]], calm[1][[0, 2, 4]]), "threads and neighbours change no bit"
        assert torch.equal(losses[[0, 2, 4]], calm[0][[0, 2, 4]])
        assert torch.equal(parameters[1], start[1]), "its gradient was NaN from the first step"
        assert losses[1].isnan().all()
        assert not torch.equal(parameters[3], start[3])


def test_without_a_compiler_the_reference_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    given = population([2, 5, 1], 6)
    monkeypatch.setattr(native, "compiler", lambda: "")
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(compiled, "train", None)
    assert mlp_population_train(*given, 2).isfinite().all()
    monkeypatch.setenv(VARIABLE, "compiled")
    with pytest.raises(UserError, match=r"compiled path: there is no C\+\+ compiler \(install g\+\+\)"):
        mlp_population_train(*given, 2)
