"""Step by step through time. Reads x, the weights and the biases; writes states, gates and cells."""

import torch
from torch import Tensor


def forward(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> tuple[Tensor, Tensor]:
    """See `population_lstm`."""
    driven = torch.einsum("mbti,mgi->mbtg", x, w_ih) + (b_ih + b_hh)[:, None, None]
    state = cell = x.new_zeros(*x.shape[:2], w_hh.shape[2])
    states, kept = [], []
    for drive in driven.unbind(2):
        write, keep, content, read = (drive + state @ w_hh.mT).chunk(4, -1)
        write, keep, content, read = write.sigmoid(), keep.sigmoid(), content.tanh(), read.sigmoid()
        cell = keep * cell + write * content
        state = read * cell.tanh()
        states.append(state)
        kept.append(torch.stack([write, keep, content, read, cell], 2))
    return torch.stack(states, 2), torch.stack(kept, 2)


def backward(
    gradient: Tensor, states: Tensor, kept: Tensor, x: Tensor, w_ih: Tensor, w_hh: Tensor, inner: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `population_lstm`."""
    d_state = d_cell = torch.zeros_like(states[:, :, 0])
    d_gates = []
    for t in reversed(range(x.shape[2])):
        write, keep, content, read, cell = kept[:, :, t].unbind(2)
        before = kept[:, :, t - 1, 4] if t else torch.zeros_like(cell)
        d_state = d_state + gradient[:, :, t]
        d_cell = d_cell + d_state * read * (1 - cell.tanh().square())
        slopes = [
            d_cell * content * write * (1 - write),
            d_cell * before * keep * (1 - keep),
            d_cell * write * (1 - content.square()),
            d_state * cell.tanh() * read * (1 - read),
        ]
        d_gates.append(torch.cat(slopes, -1))
        d_cell, d_state = d_cell * keep, d_gates[-1] @ w_hh
    d = torch.stack(d_gates[::-1], 2)
    earlier = torch.cat([torch.zeros_like(states[:, :, :1]), states[:, :, :-1]], 2)
    dx = torch.einsum("mbtg,mgi->mbti", d, w_ih) if inner else x.new_empty(0, *x.shape[1:])
    return dx, torch.einsum("mbtg,mbti->mgi", d, x), torch.einsum("mbtg,mbth->mgh", d, earlier), d.sum((1, 2))
