"""On the CPU: about √T steps on √T chunks at once, then about √T steps that join the chunks."""

from math import isqrt

import torch
from torch import Tensor

SHORT = 24  # steps: up to here cutting costs more than it saves


def forward(decay: Tensor, inputs: Tensor, reverse: bool) -> Tensor:
    """h_t = a_t h_{t-1} + x_t, `[B, T, C]`."""
    if inputs.dtype in (torch.float16, torch.bfloat16):
        return forward(decay.float(), inputs.float(), reverse).to(inputs.dtype)
    time = inputs.shape[1]
    length = time if time <= SHORT else isqrt(time - 1) + 1
    chunks = -(-time // length)
    states = torch.empty_like(inputs, memory_format=torch.contiguous_format)
    whole = (chunks - 1) * length if chunks * length > time else time
    start = time - whole if reverse else 0  # what does not fill a chunk is the end of the recurrence
    carry = torch.zeros_like(inputs[:, 0])
    if whole:
        window = slice(start, start + whole)
        a, x, h = (tensor[:, window].unflatten(1, (-1, length)) for tensor in (decay, inputs, states))
        carry = _chunks(a, x, h, reverse)
    rest = range(start - 1, -1, -1) if reverse else range(whole, time)
    for t in rest:
        carry = torch.addcmul(inputs[:, t], decay[:, t], carry, out=states[:, t])
    return states


def _chunks(decay: Tensor, inputs: Tensor, states: Tensor, reverse: bool) -> Tensor:
    """Fill `states` `[B, n, length, C]`; returns the last state `[B, C]`."""
    chunks, length = states.shape[1:3]
    order, first = (range(length - 1, -1, -1), chunks - 1) if reverse else (range(length), 0)
    state, product = torch.zeros_like(inputs[:, :, 0]), torch.ones_like(inputs[:, :, 0])
    if chunks > 1:
        for t in order:  # the last state of every chunk, were it alone, and the product of its decays
            state = torch.addcmul(inputs[:, :, t], decay[:, :, t], state)
            product.mul_(decay[:, :, t])
    entering = torch.zeros_like(state)
    for n in range(first - 1, -1, -1) if reverse else range(1, chunks):
        before = n + 1 if reverse else n - 1
        torch.addcmul(state[:, before], product[:, before], entering[:, before], out=entering[:, n])
    state = entering
    for t in order:
        state = torch.addcmul(inputs[:, :, t], decay[:, :, t], state, out=states[:, :, t])
    return states[:, 0, 0] if reverse else states[:, -1, -1]
