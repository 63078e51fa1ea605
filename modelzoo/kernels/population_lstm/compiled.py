"""On the CPU: all time steps of some sequences in the cache, one thread a model; see `compiled.cpp`."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from modelzoo.kernels import native

NEEDS_COMPILER = True
DTYPES = (torch.float32,)  # zoos are not trained in double precision
SOURCE = Path(__file__).with_name("compiled.cpp")


def refused(part: str, x: Tensor, *rest: object) -> str:
    """Single precision only."""
    return "" if x.dtype in DTYPES else "it is for float32"


def _call(name: str, x: Tensor, hidden: int, *tensors: Tensor | None) -> None:
    pointers = [0 if tensor is None else tensor.data_ptr() for tensor in (x, *tensors)]
    numbers = (*x.shape, hidden, torch.get_num_threads())
    getattr(native.library(SOURCE), name)((ctypes.c_int64 * (len(numbers) + len(pointers)))(*numbers, *pointers))


def forward(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> tuple[Tensor, Tensor]:
    """See `population_lstm`."""
    given = [tensor.contiguous() for tensor in (x, w_ih, w_hh, b_ih, b_hh)]
    hidden = w_hh.shape[2]
    states, kept = x.new_empty(*x.shape[:3], hidden), x.new_empty(*x.shape[:3], 5, hidden)
    _call("forward", given[0], hidden, *given[1:], states, kept, None, None, None, None, None)
    return states, kept


def backward(
    gradient: Tensor, states: Tensor, kept: Tensor, x: Tensor, w_ih: Tensor, w_hh: Tensor, inner: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `population_lstm`."""
    gradient, states, kept, x, w_ih, w_hh = (tensor.contiguous() for tensor in (gradient, states, kept, x, w_ih, w_hh))
    dx, dw_ih, dw_hh = x.new_empty(len(x) if inner else 0, *x.shape[1:]), torch.empty_like(w_ih), torch.empty_like(w_hh)
    db = w_hh.new_zeros(w_hh.shape[:2])  # zero biases on the way in: they have no part in gradients
    results = (dx if inner else None, dw_ih, dw_hh, torch.empty_like(db))
    _call("backward", x, w_hh.shape[2], w_ih, w_hh, db, db, states, kept, gradient, *results)
    return dx, dw_ih, dw_hh, results[3]
