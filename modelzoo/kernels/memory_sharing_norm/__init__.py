"""Normalization that keeps nothing for its backward pass but its output, which the next linear layer keeps anyway.

Paper: Reducing Fine-Tuning Memory Overhead by Approximate and Memory-Sharing Backpropagation (Yang et al., 2024).
"""

from typing import Any

import torch
from torch import Tensor

from modelzoo.family import Paper
from modelzoo.kernels.registry import Op, Work, part, register


def memory_sharing_norm(x: Tensor, center: bool = True, epsilon: float = 1e-5) -> Tensor:
    """y = (x - mean x) / √(var x + ε) over the last axis; without `center` y = x / √(mean x² + ε).

    There is no gain and no bias: they belong into the linear layer that follows, W diag(γ) and b + W β.

    Args:
        x: `[…, C]`.
        center: layer norm; RMS norm otherwise.
        epsilon: ε.

    Returns:
        y `[…, C]`, the only tensor of that size that is kept.
    """
    return forward(x.reshape(-1, x.shape[-1]), center, epsilon)[0].view(x.shape)


@part(__name__, fold=True)
def forward(x: Tensor, center: bool, epsilon: float) -> tuple[Tensor, Tensor]:
    """`[R, C]` to y `[R, C]` and 1/σ `[R]`, in at least float32."""
    return x.new_empty(x.shape), x.new_empty(len(x), dtype=torch.promote_types(x.dtype, torch.float32))


@part(__name__, fold=True)
def backward(gradient: Tensor, y: Tensor, scale: Tensor, center: bool) -> Tensor:
    """The gradient of y to that of x."""
    return y.new_empty(y.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*output)
    ctx.center = inputs[1]


def _backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor, None, None]:
    return backward(gradient.contiguous(), *ctx.saved_tensors, ctx.center), None, None


forward.register_autograd(_backward, setup_context=_save)


def examples(dtype: torch.dtype, seed: int) -> list[tuple[Any, ...]]:
    """Odd widths, both kinds, a large mean."""
    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)

    return [(random(2, 5, 7),), (random(3, 33), False), (random(4, 6) + 3, True, 1e-3)]


def typical() -> tuple[Any, ...]:
    """Arguments of the size that `Work` names."""
    return (torch.randn(32768, 1024),)


OP = register(
    Op(
        memory_sharing_norm,
        "y = (x - mean x) / √(var x + ε)",
        examples,
        Work("R 32768, C 1024, float32", bytes=4 * 5 * 32768 * 1024, flops=14 * 32768 * 1024, arguments=typical),
        (Paper("Reducing Fine-Tuning Memory Overhead by Approximate and Memory-Sharing Backpropagation", "Yang et al.", 2024, "S187"),),
    )
)  # fmt: skip
