"""The convolutions of a population: every model has its own images and its own kernels."""

from typing import Any

import torch
from torch import Tensor

from modelzoo.kernels.registry import Op, Work, part, register


def population_convolution(
    x: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, int] = (1, 1), padding: tuple[int, int] = (0, 0)
) -> Tensor:
    """y_mbo = Σ_c K_moc ⋆ x_mbc + b_mo, as `torch.nn.functional.conv2d` for each model m.

    Args:
        x: `[M, B, C, H, W]`.
        weight: K `[M, O, C, height, width]`.
        bias: b `[M, O]`.
        stride: down and across.
        padding: zeros above and below, left and right.

    Returns:
        `[M, B, O, H', W']` with H' = (H + 2 padding - height) / stride + 1, rounded down.

    Raises:
        ValueError: a kernel is larger than the padded image, or shapes do not fit.
    """
    models, _, channels, *size = x.shape
    if weight.shape[:3:2] != (models, channels) or bias.shape != weight.shape[:2]:
        raise ValueError(f"kernels {list(weight.shape)} and biases {list(bias.shape)} do not fit images {list(x.shape)}")  # fmt: skip
    if any(n + 2 * p < k for n, p, k in zip(size, padding, weight.shape[3:], strict=True)):
        raise ValueError(f"kernels {list(weight.shape[3:])} are larger than the padded images {size}")
    return forward(x, weight, bias, list(stride), list(padding))


@part(__name__, fold=True)
def forward(x: Tensor, w: Tensor, bias: Tensor, stride: list[int], padding: list[int]) -> Tensor:
    """See `population_convolution`."""
    sizes = [(x.shape[3 + i] + 2 * padding[i] - w.shape[3 + i]) // stride[i] + 1 for i in (0, 1)]
    return x.new_empty(*x.shape[:2], w.shape[1], *sizes)


@part(__name__, fold=True)
def backward(
    gradient: Tensor, x: Tensor, w: Tensor, stride: list[int], padding: list[int], inner: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (of no models unless `inner`), K and b from that of y."""
    return x.new_empty(len(x) if inner else 0, *x.shape[1:]), w.new_empty(w.shape), w.new_empty(w.shape[:2])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.options = inputs[3:]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
    x, w = ctx.saved_tensors
    inner = ctx.needs_input_grad[0]
    dx, dw, db = backward(gradient.contiguous(), x, w, *ctx.options, inner)
    return dx if inner else None, dw, db, None, None


forward.register_autograd(_backward, setup_context=_save)


def examples(dtype: torch.dtype, seed: int) -> list[tuple[Any, ...]]:
    """Odd sizes, strides and margins, kernels of one pixel and of more than four, more rows than one tile."""
    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)

    def case(models: int, images: int, channels: int, out: int, size: tuple[int, int], kernel: tuple[int, int], *options: Any) -> tuple[Any, ...]:  # fmt: skip
        weight = random(models, out, channels, *kernel)
        return random(models, images, channels, *size), weight, random(models, out), *options

    return [
        case(3, 5, 2, 3, (5, 4), (3, 3), (1, 1), (1, 1)),
        case(2, 3, 1, 17, (9, 7), (3, 2), (2, 1), (1, 0)),
        case(1, 2, 3, 2, (6, 11), (1, 5), (1, 2), (0, 2)),
        case(2, 1, 9, 8, (2, 2), (1, 1)),
    ]


OP = register(
    Op(
        population_convolution,
        "y_mbo = Σ_c K_moc ⋆ x_mbc + b_mo",
        examples,
        Work(
            "M 64, B 64, C 16, O 16, 16 × 16 images, 3 × 3 kernels, float32",
            bytes=4 * 64 * (5 * 64 * 16 * 256 + 3 * 16 * 16 * 9),
            flops=6 * 64 * 64 * 16 * 16 * 9 * 256,
        ),
        without_triton="a grouped convolution by cuDNN is the fast path of a GPU, and is what the reference is",
    )
)
