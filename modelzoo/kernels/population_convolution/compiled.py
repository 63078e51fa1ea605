"""On the CPU: patches in the cache and matrix products in registers, one thread a model; see `compiled.cpp`."""

from pathlib import Path

import torch
from torch import Tensor

from modelzoo.kernels import native

NEEDS_COMPILER = True
DTYPES = (torch.float32,)
SOURCE = Path(__file__).with_name("compiled.cpp")


refused = native.single_precision


def _call(name: str, x: Tensor, w: Tensor, stride: list[int], padding: list[int], *tensors: Tensor | None) -> None:
    numbers = (*x.shape[:3], w.shape[1], *x.shape[3:], *w.shape[3:], *stride, *padding, torch.get_num_threads())
    getattr(native.library(SOURCE), name)(native.structure(*numbers, x, w, *tensors))


def forward(x: Tensor, w: Tensor, bias: Tensor, stride: list[int], padding: list[int]) -> Tensor:
    """See `population_convolution`."""
    x, w, bias = x.contiguous(), w.contiguous(), bias.contiguous()
    sizes = [(x.shape[3 + i] + 2 * padding[i] - w.shape[3 + i]) // stride[i] + 1 for i in (0, 1)]
    y = x.new_empty(*x.shape[:2], w.shape[1], *sizes)
    _call("forward", x, w, stride, padding, bias, None, y, None, None, None)
    return y


def backward(
    gradient: Tensor, x: Tensor, w: Tensor, stride: list[int], padding: list[int], inner: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See `population_convolution`."""
    gradient, x, w = gradient.contiguous(), x.contiguous(), w.contiguous()
    dx, dw, db = x.new_empty(len(x) if inner else 0, *x.shape[1:]), torch.empty_like(w), w.new_empty(w.shape[:2])
    zero = torch.zeros_like(db)  # the bias has no part in gradients
    _call("backward", x, w, stride, padding, zero, gradient, None, dx if inner else None, dw, db)
    return dx, dw, db
