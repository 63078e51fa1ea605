"""On the CPU: a few thousand numbers at a time, so that a message is used while it is in the cache and never stored.

Sums over the edges of a target are torch's `embedding_bag`, which is the fastest segment sum there.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from metanets.kernels.edge_message.reference import targets_of

CACHED = 2**18  # numbers of one tile


def refused(part: str, *arguments: Tensor | str | bool) -> str:
    """`embedding_bag` has no half precision here."""
    first = arguments[0]
    assert isinstance(first, Tensor)
    return "" if first.dtype in (torch.float32, torch.float64) else "it is for float32 and float64"


def tiles(offsets: Tensor, channels: int) -> Iterator[tuple[slice, slice]]:
    """Runs of whole targets with about `CACHED` numbers, and their edges."""
    ends = offsets.tolist()
    most, start = max(1, CACHED // max(channels, 1)), 0
    for v in range(1, len(ends)):
        if v == len(ends) - 1 or ends[v + 1] - ends[start] > most:
            yield slice(start, v), slice(ends[start], ends[v])
            start = v


def segment_sum(rows: Tensor, offsets: Tensor) -> Tensor:
    """Sums of the rows `offsets[v] … offsets[v + 1] - 1`, for every v."""
    if not len(rows):
        return rows.new_zeros(len(offsets) - 1, rows.shape[1])
    return F.embedding_bag(torch.arange(len(rows)), rows, offsets, mode="sum", include_last_offset=True)


def forward(
    nodes: Tensor, gain: Tensor, shift: Tensor, target: Tensor, source: Tensor, offsets: Tensor, activation: str, update: bool
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See `edge_message`."""
    to = targets_of(offsets, len(source))
    pooled = torch.empty_like(target, memory_format=torch.contiguous_format)
    updated = shift.new_empty(shift.shape if update else (0, shift.shape[1]))
    for v, e in tiles(offsets, shift.shape[1]):
        u = nodes.index_select(0, source[e]).mul_(gain[e]).add_(shift[e]).add_(target.index_select(0, to[e]))
        if activation == "relu":
            u.relu_()
        elif activation == "silu":
            F.silu(u, inplace=True)
        pooled[v] = segment_sum(u, offsets[v.start : v.stop + 1] - e.start)
        if update:
            updated[e] = u
    return pooled, updated


def backward(
    pooled: Tensor, updated: Tensor, nodes: Tensor, gain: Tensor, shift: Tensor, target: Tensor, source: Tensor, offsets: Tensor,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Tile by tile; the gradient of a node is added up where its edges are met."""
    to = targets_of(offsets, len(source))
    d_nodes = torch.zeros_like(nodes, memory_format=torch.contiguous_format)
    d_gain, g = torch.empty_like(gain), torch.empty_like(shift)
    d_target = torch.empty_like(target, memory_format=torch.contiguous_format)
    for v, e in tiles(offsets, shift.shape[1]):
        x, own = nodes.index_select(0, source[e]), torch.index_select(pooled, 0, to[e], out=g[e])
        if len(updated):
            own.add_(updated[e])
        if activation != "identity":
            z = torch.mul(x, gain[e]).add_(shift[e]).add_(target.index_select(0, to[e]))
            if activation == "relu":
                own.mul_(z > 0)
            else:  # s (1 + z (1 - s)) = s + z s (1 - s) = s + u - u s
                s = z.sigmoid()
                u = z.mul_(s)
                own.mul_(u.addcmul_(u, s, value=-1).add_(s))
        d_target[v] = segment_sum(own, offsets[v.start : v.stop + 1] - e.start)
        torch.mul(own, x, out=d_gain[e])
        d_nodes.index_add_(0, source[e], torch.mul(own, gain[e], out=x))
    return d_nodes, d_gain, g, d_target
