"""On the CPU: both additions in one pass in C++; see `compiled.cpp`."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from modelzoo.kernels import native

NEEDS_COMPILER = True
SOURCE = Path(__file__).with_name("compiled.cpp")


def refused(part: str, weights: Tensor | None, rows: Tensor, columns: Tensor) -> str:
    """One dtype, single or double."""
    dtypes = {tensor.dtype for tensor in (weights, rows, columns) if tensor is not None}
    return "" if dtypes in ({torch.float32}, {torch.float64}) else "it is for float32 and float64"


def forward(weights: Tensor | None, rows: Tensor, columns: Tensor) -> Tensor:
    """See `axis_broadcast`."""
    batch, outputs, channels = rows.shape
    result = rows.new_empty(batch, outputs, columns.shape[1], channels)
    given = [None if tensor is None else tensor.contiguous() for tensor in (weights, rows, columns, result)]
    pointers = [ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in given]
    sizes = (*result.shape, torch.get_num_threads())
    getattr(native.library(SOURCE), f"forward_{rows.itemsize}")(*pointers, *map(ctypes.c_int64, sizes))
    return result
