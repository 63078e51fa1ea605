"""On the CPU: one pass over the edges in C++, a message in registers; see `compiled.cpp`."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from metanets.kernels.edge_message import ACTIVATIONS
from modelzoo.kernels import native

NEEDS_COMPILER = True
SOURCE = Path(__file__).with_name("compiled.cpp")


def refused(part: str, *arguments: Tensor | str | bool) -> str:
    """One dtype, single or double."""
    dtypes = {argument.dtype for argument in arguments if isinstance(argument, Tensor)} - {torch.int64}
    return "" if dtypes in ({torch.float32}, {torch.float64}) else "it is for float32 and float64"


def _call(name: str, dtype: torch.dtype, *arguments: ctypes.Array[ctypes.c_int64] | Tensor | int) -> None:
    function = getattr(native.library(SOURCE), f"{name}_{dtype.itemsize}")
    given = (argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments)
    function(*(ctypes.c_int64(value) if isinstance(value, int) else value for value in given), ctypes.c_int64(torch.get_num_threads()))  # fmt: skip


def _check(nodes: int, source: Tensor, offsets: Tensor) -> None:
    """C++ would read whatever lies outside."""
    if len(source) and not 0 <= int(source.min()) <= int(source.max()) < nodes:
        raise IndexError(f"source of edge_message must name one of {nodes} nodes")
    if int(offsets[0]) or int(offsets[-1]) != len(source) or bool((offsets.diff() < 0).any()):
        raise IndexError(f"offsets of edge_message must rise from 0 to the number of edges, {len(source)}")


def forward(
    nodes: Tensor, gain: Tensor, shift: Tensor, target: Tensor, source: Tensor, offsets: Tensor, activation: str, update: bool
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See `edge_message`."""
    _check(len(nodes), source, offsets)
    given = [tensor.contiguous() for tensor in (nodes, gain, shift, target, source, offsets)]
    pooled = torch.empty_like(given[3])
    updated = shift.new_empty(shift.shape if update else (0, shift.shape[1]))
    _call(
        "forward", shift.dtype, native.structure(*given, *target.shape), pooled, updated, ACTIVATIONS.index(activation)
    )
    return pooled, updated


def backward(
    pooled: Tensor, updated: Tensor, nodes: Tensor, gain: Tensor, shift: Tensor, target: Tensor, source: Tensor, offsets: Tensor,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """One pass; the gradient of a node is added up where its edges are met."""
    given = [tensor.contiguous() for tensor in (nodes, gain, shift, target, source, offsets)]
    pooled, updated = pooled.contiguous(), updated.contiguous()
    d_nodes = torch.zeros_like(given[0])
    d_gain, d_shift, d_target = (torch.empty_like(tensor) for tensor in given[1:4])
    gradients = native.structure(pooled, updated, d_nodes, d_gain, d_shift, d_target)
    _call("backward", shift.dtype, native.structure(*given, *target.shape), gradients, ACTIVATIONS.index(activation))
    return d_nodes, d_gain, d_shift, d_target
