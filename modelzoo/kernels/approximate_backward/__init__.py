"""Activations whose backward pass keeps two bits a number.

Paper: Reducing Fine-Tuning Memory Overhead by Approximate and Memory-Sharing Backpropagation (Yang et al., 2024).
"""

from typing import Any, Literal

import torch
from torch import Tensor

from modelzoo.family import Paper
from modelzoo.kernels.registry import Op, Work, part, register

# h̃(x) = a relu(x + c) + (1 - 2a) relu(x) + a relu(x - c), the least squares of GELU and SiLU over the line. That the outer
# slopes agree is no restriction: h(x) - x/2 is even. The slope of h̃ is 0, a, 1 - a or 1, which is two bits.
FITS = {"gelu": (-0.049575, 3.171316), "silu": (-0.040524, 6.319964)}


def approximate_backward(x: Tensor, activation: Literal["gelu", "silu"] = "gelu") -> Tensor:
    """y = GELU(x) or SiLU(x), exactly; its gradient is the slope of the nearest sum of three ReLUs (ReGELU2, ReSiLU2).

    Args:
        x: of any shape.
        activation: gelu (exact, not the tanh form) or silu.

    Returns:
        y, of the same shape. A sixteenth of x's float32 memory is kept for the backward pass.

    Raises:
        ValueError: an unknown activation.
    """
    if activation not in FITS:
        raise ValueError(f"activation of approximate_backward must be gelu or silu, got {activation!r}")
    return forward(x.reshape(1, -1), activation)[0].view(x.shape)


@part(__name__, fold=True)
def forward(x: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """`[R, n]` to y `[R, n]` and codes, four a byte, `[R, ceil(n / 4)]` uint8."""
    return x.new_empty(x.shape), x.new_empty(len(x), (x.shape[1] + 3) // 4, dtype=torch.uint8)


@part(__name__, fold=True)
def backward(gradient: Tensor, codes: Tensor, activation: str) -> Tensor:
    """The gradient of y times the coded slope."""
    return gradient.new_empty(gradient.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])
    ctx.activation = inputs[1]


def _backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor, None]:
    return backward(gradient.contiguous(), *ctx.saved_tensors, ctx.activation), None


forward.register_autograd(_backward, setup_context=_save)


def examples(dtype: torch.dtype, seed: int) -> list[tuple[Any, ...]]:
    """Sizes that fill no byte; values on all four pieces."""
    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return (4 * torch.randn(*shape, generator=draw, dtype=torch.float64)).to(dtype)

    return [(random(3, 11),), (random(5, 5), "silu"), (random(64), "silu")]


def typical() -> tuple[Any, ...]:
    """Arguments of the size that `Work` names."""
    return (torch.randn(2**25),)


OP = register(
    Op(
        approximate_backward,
        "y = h(x), dx = dy ⊙ h̃'(x), h̃ = a relu(x + c) + (1 - 2a) relu(x) + a relu(x - c)",
        examples,
        Work("2^25 numbers, float32", bytes=2**25 * (4 * 4 + 0.5), flops=12 * 2**25, arguments=typical),
        (Paper("Reducing Fine-Tuning Memory Overhead by Approximate and Memory-Sharing Backpropagation", "Yang et al.", 2024, "S187"),),
        exact=False,
    )
)  # fmt: skip
