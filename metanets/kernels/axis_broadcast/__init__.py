"""A weight tensor plus a vector per row, per column and for all of it, in one pass: the adjoint of `axis_pool`.

Paper: Permutation Equivariant Neural Functionals (Zhou et al., 2023).
"""

from typing import Any

import torch
from torch import Tensor

from metanets.kernels.axis_pool import forward as pool
from modelzoo.family import Paper
from modelzoo.kernels.registry import Op, Work, part, register


def axis_broadcast(weights: Tensor | None, rows: Tensor, columns: Tensor, everywhere: Tensor | None = None) -> Tensor:
    """out_oi = W_oi + rows_o + columns_i + all.

    Args:
        weights: W `[B, O, I, C]`, or None for zero.
        rows: `[B, O, C]`.
        columns: `[B, I, C]`.
        everywhere: `[B, C]`, or None for zero.

    Returns:
        `[B, O, I, C]`. Every derivative exists.
    """
    if everywhere is not None:  # folded into the smaller tensor
        rows = rows + everywhere.unsqueeze(1)
    return forward(weights, rows, columns)


@part(__name__, fold=True)
def forward(weights: Tensor | None, rows: Tensor, columns: Tensor) -> Tensor:
    """See `axis_broadcast`."""
    batch, outputs, channels = rows.shape
    return rows.new_empty(batch, outputs, columns.shape[1], channels)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.weighted = inputs[0] is not None


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
    return gradient if ctx.weighted else None, *pool(gradient.contiguous())


forward.register_autograd(_backward, setup_context=_save)


def examples(dtype: torch.dtype, seed: int) -> list[tuple[Any, ...]]:
    """Odd sizes, with and without weights."""
    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)

    return [
        (random(2, 5, 7, 3), random(2, 5, 3), random(2, 7, 3), random(2, 3)),
        (None, random(1, 9, 17), random(1, 2, 17)),
        (random(3, 1, 5, 1), random(3, 1, 1), random(3, 5, 1)),
    ]


def typical() -> tuple[Any, ...]:
    """Arguments of the size that `Work` names."""
    return torch.randn(64, 64, 64, 64), torch.randn(64, 64, 64), torch.randn(64, 64, 64), torch.randn(64, 64)


OP = register(
    Op(
        axis_broadcast,
        "out_oi = W_oi + rows_o + columns_i + all",
        examples,
        Work(
            "B 64, O 64, I 64, C 64, float32",
            bytes=4 * (3 * 64**4 + 4 * 64**3 + 2 * 64**2),
            flops=2 * 2 * 64**4,
            arguments=typical,
        ),
        (Paper("Permutation Equivariant Neural Functionals", "Zhou et al.", 2023),),
    )
)
