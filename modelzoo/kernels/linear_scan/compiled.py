"""On the CPU: one pass over time in C++; see `compiled.cpp`."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from modelzoo.kernels import native

NEEDS_COMPILER = True
SOURCE = Path(__file__).with_name("compiled.cpp")


def forward(decay: Tensor, inputs: Tensor, reverse: bool) -> Tensor:
    """h_t = a_t h_{t-1} + x_t, `[B, T, C]`."""
    if inputs.dtype in (torch.float16, torch.bfloat16):
        return forward(decay.float(), inputs.float(), reverse).to(inputs.dtype)
    decay, inputs = (x.resolve_conj().contiguous() for x in (decay, inputs))
    states = torch.empty_like(inputs)
    batch, time, channels = inputs.shape
    parts = 2 if inputs.is_complex() else 1  # a complex number is two real ones
    sizes = (batch, time, parts * channels, parts - 1, int(reverse), torch.get_num_threads())
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in (decay, inputs, states)]
    if inputs.numel():
        getattr(native.library(SOURCE), f"forward_{inputs.itemsize // parts}")(*pointers, *map(ctypes.c_int64, sizes))
    return states
