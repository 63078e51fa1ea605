"""The update against torch.optim, model by model, and what one model's divergence does to the others: nothing."""

import pytest
import torch

from modelzoo.kernels.population_adam import examples, population_adam
from modelzoo.kernels.registry import VARIABLE

PATHS = ("reference", "compiled", "triton")


@pytest.mark.parametrize("backend", PATHS)
def test_five_steps_are_those_of_torch(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, backend)
    draw = torch.Generator().manual_seed(0)
    rates, decays = torch.tensor([1e-3, 1e-2, 1e-1]), torch.tensor([0.0, 0.1, 0.5])
    start = [torch.randn(3, *shape, generator=draw) for shape in ((4, 5), (4,))]
    stacked = [tensor.clone() for tensor in start]
    moments = [[torch.zeros_like(tensor) for tensor in start] for _ in range(2)]
    single = [[tensor[model].clone().requires_grad_() for tensor in start] for model in range(3)]
    optimizers = [torch.optim.AdamW(single[m], lr=float(rates[m]), weight_decay=float(decays[m])) for m in range(3)]
    alive = torch.ones(3, dtype=torch.bool)
    for step in range(1, 6):
        gradients = [torch.randn(tensor.shape, generator=draw) for tensor in start]
        alive = population_adam(stacked, gradients, *moments, alive, rates, decays, step, gradient_clip=1.0)
        for model, optimizer in enumerate(optimizers):
            for parameter, gradient in zip(single[model], gradients, strict=True):
                parameter.grad = gradient[model].clone()
            torch.nn.utils.clip_grad_norm_(single[model], 1.0)
            optimizer.step()
    assert alive.all()
    for i, tensor in enumerate(stacked):
        wanted = torch.stack([own[i].detach() for own in single])
        torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(tensor, start[i], atol=1e-2), "the control: something moved"


@pytest.mark.parametrize("backend", PATHS)
def test_a_diverged_model_is_frozen_and_alone(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, backend)
    ours, clean = examples(torch.float32, 0)[1], examples(torch.float32, 0)[1]
    before = [tensor.clone() for tensor in ours[0]]
    for tensor in clean[1]:
        tensor.nan_to_num_(0.0, 0.0, 0.0)
    alive = population_adam(*ours)
    assert alive.tolist() == [True, False, False, True, False]
    assert population_adam(*clean).tolist() == [True, True, False, True, True]
    for i, (own, other, old) in enumerate(zip(ours[0], clean[0], before, strict=True)):
        assert torch.equal(own[[1, 2, 4]], old[[1, 2, 4]]), "the dead stay, bit for bit"
        assert torch.equal(own[[0, 3]], other[[0, 3]]), "the living do not notice"
        assert not torch.equal(other[1], old[1])
        assert ours[2][i].isfinite().all()
        assert ours[3][i].isfinite().all()


def test_step_zero_is_refused() -> None:
    *lists, alive, rates, decays, _, _ = examples(torch.float32, 0)[0]
    with pytest.raises(ValueError, match="count from 1, got 0"):
        population_adam(*lists, alive, rates, decays, 0)
