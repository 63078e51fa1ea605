"""On the CPU: all time steps of some sequences in the cache, one thread a model; see `compiled.cpp`."""

from pathlib import Path

import torch
from torch import Tensor

from modelzoo.kernels import native

NEEDS_COMPILER = True
DTYPES = (torch.float32,)
SOURCE = Path(__file__).with_name("compiled.cpp")


refused = native.single_precision


def _call(name: str, x: Tensor, hidden: int, *tensors: Tensor | None) -> None:
    fields = native.structure(*x.shape, hidden, torch.get_num_threads(), x, *tensors)
    getattr(native.library(SOURCE), name)(fields)


def forward(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> tuple[Tensor, Tensor]:
    """See `population_lstm`."""
    given = [tensor.contiguous() for tensor in (x, w_ih, w_hh, b_ih, b_hh)]
    hidden = w_hh.shape[2]
    states, cells = (x.new_empty(*x.shape[:3], hidden) for _ in range(2))
    _call("forward", given[0], hidden, *given[1:], states, cells, None, None, None, None, None)
    return states, cells


def backward(
    gradient: Tensor, states: Tensor, cells: Tensor, x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, inner: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """See `population_lstm`."""
    gradient, x, *given = (tensor.contiguous() for tensor in (gradient, x, w_ih, w_hh, b_ih, b_hh, states, cells))
    dx, dw_ih, dw_hh, db = x.new_empty(len(x) if inner else 0, *x.shape[1:]), *map(torch.empty_like, given[:3])
    _call("backward", x, w_hh.shape[2], *given, gradient, dx if inner else None, dw_ih, dw_hh, db)
    return dx, dw_ih, dw_hh, db
