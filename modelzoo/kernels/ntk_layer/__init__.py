"""One layer's share of the empirical neural tangent kernel.

Papers: Neural Tangent Kernel: Convergence and Generalization in Neural Networks (Jacot et al., 2018); Fast Finite Width
Neural Tangent Kernel (Novak et al., 2022).
"""

from typing import Any

import torch
from torch import Tensor

from modelzoo.family import Paper
from modelzoo.kernels.registry import Op, Work, part, register


def ntk_layer(
    activations: Tensor,
    gradients: Tensor,
    other_activations: Tensor | None = None,
    other_gradients: Tensor | None = None,
    kernel: Tensor | None = None,
    bias: bool = True,
) -> Tensor:
    """K_opnm += Σ_st (a_ns · a'_mt + bias) (g_ons · g'_pmt), the layer's ⟨∂f_o(x_n)/∂θ, ∂f_p(x'_m)/∂θ⟩.

    A linear layer z = W a + b has one position s; a convolution has one per output pixel, with a the unfolded patch.

    Args:
        activations: a `[N, S, I]`, what enters the layer.
        gradients: g `[O, N, S, J]`, of output o to the layer's pre-activations.
        other_activations: a' `[M, S, I]`, or None for a; the kernel is then symmetric, and half of it is computed.
        other_gradients: g' `[P, M, S, J]`, or None for g.
        kernel: what other layers have contributed, `[O, P, N, M]`, or None for zero.
        bias: whether the layer has one.

    Returns:
        `[O, P, N, M]`; not differentiable.

    Raises:
        ValueError: one of the other pair is missing.
    """
    if (other_activations is None) != (other_gradients is None):
        raise ValueError("ntk_layer needs other_activations and other_gradients together, or neither")
    return forward(activations, gradients, other_activations, other_gradients, kernel, bias)


@part(__name__)
def forward(a: Tensor, g: Tensor, a2: Tensor | None, g2: Tensor | None, kernel: Tensor | None, bias: bool) -> Tensor:
    """See `ntk_layer`."""
    other = g if g2 is None else g2
    return g.new_empty(g.shape[0], other.shape[0], g.shape[1], other.shape[1])


def examples(dtype: torch.dtype, seed: int) -> list[tuple[Any, ...]]:
    """A linear layer against itself and against other points, with and without bias, and a convolution."""
    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)

    return [
        (random(7, 1, 19), random(2, 7, 1, 5)),
        (random(5, 1, 3), random(2, 5, 1, 33), random(4, 1, 3), random(3, 4, 1, 33), random(2, 3, 5, 4), False),
        (random(5, 6, 4), random(2, 5, 6, 3), None, None, random(2, 2, 5, 5)),
        (random(3, 2, 4), random(1, 3, 2, 3), random(2, 2, 4), random(1, 2, 2, 3)),
    ]


def typical() -> tuple[Any, ...]:
    """Arguments of the size that `Work` names."""
    return torch.randn(2048, 1, 512), torch.randn(10, 2048, 1, 512), None, None, torch.zeros(10, 10, 2048, 2048)


OP = register(
    Op(
        ntk_layer,
        "K_opnm += Σ_st (a_ns · a'_mt + 1) (g_ons · g'_pmt)",
        examples,
        Work("N 2048, O 10, I 512, J 512, one position, float32", bytes=4 * (2 * 100 * 2048**2 + 2048 * 512 * 11), flops=2 * 2048**2 * 512 * 101 / 2, arguments=typical),
        (
            Paper("Neural Tangent Kernel: Convergence and Generalization in Neural Networks", "Jacot et al.", 2018),
            Paper("Fast Finite Width Neural Tangent Kernel", "Novak et al.", 2022),
        ),
        differentiable=False,
    )
)  # fmt: skip
