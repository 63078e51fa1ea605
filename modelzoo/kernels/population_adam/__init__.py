"""One update of a whole population by Adam.

Papers: Adam: A Method for Stochastic Optimization (Kingma and Ba, 2015); Decoupled Weight Decay Regularization
(Loshchilov and Hutter, 2019).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from modelzoo.family import Paper
from modelzoo.kernels.registry import Op, Work, part, register


def population_adam(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    alive: Tensor,
    learning_rate: Tensor,
    weight_decay: Tensor,
    step: int,
    gradient_clip: float | None = None,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> Tensor:
    """m ← β₁m + (1-β₁)g, v ← β₂v + (1-β₂)g², θ ← θ - η(λθ + m̂/(√v̂ + ε)) for every model, in place.

    A model whose gradient is not finite is dead from this step on. A dead model's parameters stay as they are, bit for
    bit; its gradient counts as zero. No model sees another one.

    Args:
        parameters: θ, contiguous real tensors `[model, *shape]`, updated.
        gradients: g, of the same shapes.
        first: m, of the same shapes, updated.
        second: v, of the same shapes, updated.
        alive: `[model]` bool.
        learning_rate: η, `[model]`.
        weight_decay: λ, `[model]`.
        step: number of this step, from 1.
        gradient_clip: largest gradient norm of a model, over all its tensors; None for no clipping.
        beta1: β₁.
        beta2: β₂.
        epsilon: ε.

    Returns:
        `alive` without the models that died now.

    Raises:
        ValueError: step 0, where the moments have no estimate.
    """
    if step < 1:
        raise ValueError(f"steps of population_adam count from 1, got {step}")
    lists = [list(tensors) for tensors in (parameters, gradients, first, second)]
    return update(*lists, alive, learning_rate, weight_decay, step, gradient_clip, beta1, beta2, epsilon)


@part(__name__, mutates=("parameters", "first", "second"))
def update(
    parameters: list[Tensor], gradients: list[Tensor], first: list[Tensor], second: list[Tensor], alive: Tensor,
    learning_rate: Tensor, weight_decay: Tensor, step: int, gradient_clip: float | None, beta1: float, beta2: float, epsilon: float,
) -> Tensor:  # fmt: skip
    """See `population_adam`."""
    return torch.empty_like(alive)


def examples(dtype: torch.dtype, seed: int) -> list[tuple[Any, ...]]:
    """Five models, one of which is dead and two of which die; with and without clipping and decay."""
    draw = torch.Generator().manual_seed(seed)

    def tensors(positive: bool = False) -> list[Tensor]:
        shapes = ((5, 3, 7), (5,), (5, 3), (5, 1, 3, 2, 2), (5, 150))
        values = [torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype) for shape in shapes]
        return [value.square() for value in values] if positive else values

    alive = torch.tensor([True, True, False, True, True])
    rates, decays = torch.tensor([1e-3, 1e-2, 1e-1, 1.0, 1e-2]), torch.tensor([0.0, 1e-1, 0.1, 0.0, 1.0])
    spoiled = tensors()
    spoiled[2][1, 2], spoiled[4][4, 70] = float("nan"), float("inf")
    return [
        (tensors(), tensors(), tensors(), tensors(positive=True), alive, rates.to(dtype), decays.to(dtype), 3, 0.5),
        (tensors(), spoiled, tensors(), tensors(positive=True), alive, rates.to(dtype), decays.to(dtype), 1),
    ]


def typical() -> tuple[Any, ...]:
    """Arguments of the size that `Work` names."""
    theta, gradient = ([torch.randn(4096, 1185)] for _ in range(2))
    first, second = ([torch.zeros(4096, 1185)] for _ in range(2))
    return (
        theta,
        gradient,
        first,
        second,
        torch.ones(4096, dtype=torch.bool),
        torch.full((4096,), 1e-3),
        torch.zeros(4096),
        1,
    )


OP = register(
    Op(
        population_adam,
        "θ ← θ - η(λθ + m̂/(√v̂ + ε)), η and λ per model",
        examples,
        Work(
            "4096 models of 1,185 parameters, float32",
            bytes=4 * 7 * 4096 * 1185,
            flops=16 * 4096 * 1185,
            arguments=typical,
        ),
        (
            Paper("Adam: A Method for Stochastic Optimization", "Kingma and Ba", 2015),
            Paper("Decoupled Weight Decay Regularization", "Loshchilov and Hutter", 2019),
        ),
        differentiable=False,
        vmappable=False,
    )
)
