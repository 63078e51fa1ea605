"""The stacked optimizers against torch's, on random gradients."""

import pytest
import torch

from modelzoo.training.optimizers import StackedOptimizer


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_many_updates_equal_those_of_torch(kind: str, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    rates, decays = (
        torch.tensor([1e-3, 1e-1, 0.5], dtype=torch.float64),
        torch.tensor([0.0, 0.1, 1e-3], dtype=torch.float64),
    )
    stacks = [torch.randn(shape, generator=draw, dtype=dtype) for shape in ((3, 4, 2), (3,), (3, 5))]
    single = [[stack[model].clone().requires_grad_() for stack in stacks] for model in range(3)]
    ours = StackedOptimizer(stacks, kind, rates, decays)  # type: ignore[arg-type]
    if kind == "adam":
        theirs = [torch.optim.AdamW(single[m], lr=float(rates[m]), weight_decay=float(decays[m])) for m in range(3)]
    else:
        theirs = [torch.optim.SGD(single[m], lr=float(rates[m]), momentum=0.9) for m in range(3)]
    alive = torch.ones(3, dtype=torch.bool)
    for _ in range(20):
        gradients = [torch.randn(stack.shape, generator=draw, dtype=dtype) for stack in stacks]
        alive = ours.step(gradients, alive)
        for model in range(3):
            for parameter, gradient in zip(single[model], gradients, strict=True):
                parameter.grad = gradient[model].clone()
                if kind == "sgd":
                    parameter.data *= 1 - float(rates[model] * decays[model])
            theirs[model].step()
    assert alive.all()
    for index, stack in enumerate(stacks):
        for model in range(3):
            torch.testing.assert_close(stack[model], single[model][index].detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["adam", "sgd"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_poisoned_model_stops_alone(kind: str, poison: float) -> None:
    stack = torch.zeros(3, 2)
    optimizer = StackedOptimizer([stack], kind, torch.full((3,), 0.1), torch.full((3,), 0.01), gradient_clip=1.0)  # type: ignore[arg-type]
    alive = optimizer.step([torch.ones(3, 2)], torch.ones(3, dtype=torch.bool))
    frozen = stack[1].clone()
    for _ in range(3):
        gradient = torch.ones(3, 2)
        gradient[1] = poison
        alive = optimizer.step([gradient], alive)
    assert alive.tolist() == [True, False, True]
    assert torch.equal(stack[1], frozen)
    assert torch.equal(stack[0], stack[2])
    assert (stack[0] < frozen).all()
    alive = optimizer.step([torch.ones(3, 2)], alive)
    assert not alive[1], "once diverged, for ever"
    assert torch.equal(stack[1], frozen)


def test_clipping_is_per_model() -> None:
    stack = torch.zeros(2, 2)
    StackedOptimizer([stack], "sgd", torch.ones(2), torch.zeros(2), gradient_clip=1.0).step(
        [torch.tensor([[3.0, 4.0], [0.3, 0.4]])], torch.ones(2, dtype=torch.bool)
    )
    torch.testing.assert_close(stack, -torch.tensor([[0.6, 0.8], [0.3, 0.4]]))
