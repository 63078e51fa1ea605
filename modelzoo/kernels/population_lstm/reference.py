"""Step by step through time. Reads x, the weights and the biases; writes states and cells."""

import torch
from torch import Tensor


def forward(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> tuple[Tensor, Tensor]:
    """See `population_lstm`."""
    driven = torch.einsum("mbti,mgi->mbtg", x, w_ih) + (b_ih + b_hh)[:, None, None]
    state = cell = x.new_zeros(*x.shape[:2], w_hh.shape[2])
    states, cells = [], []
    for drive in driven.unbind(2):
        write, keep, content, read = gates(drive + state @ w_hh.mT)
        cell = keep * cell + write * content
        state = read * cell.tanh()
        states.append(state)
        cells.append(cell)
    return torch.stack(states, 2), torch.stack(cells, 2)


def gates(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """σ(i), σ(f), tanh(g), σ(o)."""
    write, keep, content, read = z.chunk(4, -1)
    return write.sigmoid(), keep.sigmoid(), content.tanh(), read.sigmoid()


def delayed(sequences: Tensor) -> Tensor:
    """What was there one step before, zero at first."""
    return torch.cat([torch.zeros_like(sequences[:, :, :1]), sequences[:, :, :-1]], 2)


def backward(
    gradient: Tensor, states: Tensor, cells: Tensor, x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, inner: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """See `population_lstm`; the gates are computed again, for all time steps at once."""
    earlier = delayed(states)
    drive = torch.einsum("mbti,mgi->mbtg", x, w_ih) + torch.einsum("mbth,mgh->mbtg", earlier, w_hh)
    kept = torch.stack([*gates(drive + (b_ih + b_hh)[:, None, None]), delayed(cells), cells.tanh()])
    d_state = d_cell = torch.zeros_like(states[:, :, 0])
    d_gates = []
    for t in reversed(range(x.shape[2])):
        write, keep, content, read, before, shown = kept[:, :, :, t]
        d_state = d_state + gradient[:, :, t]
        d_cell = d_cell + d_state * read * (1 - shown.square())
        slopes = [
            d_cell * content * write * (1 - write),
            d_cell * before * keep * (1 - keep),
            d_cell * write * (1 - content.square()),
            d_state * shown * read * (1 - read),
        ]
        d_gates.append(torch.cat(slopes, -1))
        d_cell, d_state = d_cell * keep, d_gates[-1] @ w_hh
    d = torch.stack(d_gates[::-1], 2)
    dx = torch.einsum("mbtg,mgi->mbti", d, w_ih) if inner else x.new_empty(0, *x.shape[1:])
    return dx, torch.einsum("mbtg,mbti->mgi", d, x), torch.einsum("mbtg,mbth->mgh", d, earlier), d.sum((1, 2))
