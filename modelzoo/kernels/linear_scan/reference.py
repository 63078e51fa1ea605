"""The recurrence as it is written: one step at a time. Reads 2 BTC, writes BTC."""

import torch
from torch import Tensor


def forward(decay: Tensor, inputs: Tensor, reverse: bool) -> Tensor:
    """h_t = a_t h_{t-1} + x_t, `[B, T, C]`."""
    order = range(inputs.shape[1])
    state = torch.zeros_like(inputs[:, 0], dtype=torch.promote_types(inputs.dtype, torch.float32))
    states = []
    for t in reversed(order) if reverse else order:
        state = decay[:, t] * state + inputs[:, t]
        states.append(state.to(inputs.dtype))
    return torch.stack(states[::-1] if reverse else states, 1)
