"""Means of a weight tensor over its rows, its columns and all of it, in one pass.

Paper: Permutation Equivariant Neural Functionals (Zhou et al., 2023).
"""

from typing import Any

import torch
from torch import Tensor

from modelzoo.family import Paper
from modelzoo.kernels.registry import Op, Work, part, register


def axis_pool(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """rows_o = mean_i W_oi, columns_i = mean_o W_oi, all = mean_oi W_oi.

    Args:
        weights: W `[B, O, I, C]`, none of them 0.

    Returns:
        `[B, O, C]`, `[B, I, C]`, `[B, C]`. Every derivative exists.
    """
    _, outputs, inputs, _ = weights.shape
    rows, columns = forward(weights)
    return rows / inputs, columns / outputs, rows.sum(1) / (inputs * outputs)


@part(__name__, fold=True)
def forward(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over I and over O, `[B, O, C]` and `[B, I, C]`."""
    batch, outputs, inputs, channels = weights.shape
    return weights.new_empty(batch, outputs, channels), weights.new_empty(batch, inputs, channels)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(True)


def _backward(ctx: Any, rows: Tensor, columns: Tensor) -> Tensor:
    from metanets.kernels.axis_broadcast import forward as broadcast  # each is the other's adjoint

    return broadcast(None, rows.contiguous(), columns.contiguous())


forward.register_autograd(_backward, setup_context=_save)


def examples(dtype: torch.dtype, seed: int) -> list[tuple[Any, ...]]:
    """Odd sizes, one row, one channel."""
    draw = torch.Generator().manual_seed(seed)
    shapes = ((2, 5, 7, 3), (1, 1, 9, 17), (3, 19, 2, 1))
    return [(torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype),) for shape in shapes]


def typical() -> tuple[Any, ...]:
    """Arguments of the size that `Work` names."""
    return (torch.randn(64, 64, 64, 64),)


OP = register(
    Op(
        axis_pool,
        "rows_o = mean_i W_oi, columns_i = mean_o W_oi, all = mean_oi W_oi",
        examples,
        Work(
            "B 64, O 64, I 64, C 64, float32",
            bytes=4 * 2 * (64**4 + 2 * 64**3 + 64**2),
            flops=2 * 2 * 64**4,
            arguments=typical,
        ),
        (Paper("Permutation Equivariant Neural Functionals", "Zhou et al.", 2023),),
    )
)
