"""On the CPU: a few thousand numbers at a time, so that a message is used while it is in the cache and never stored.

Sums over the edges of a target are torch's `embedding_bag`, which is the fastest segment sum there.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from metanets.kernels.edge_message.reference import slope, targets_of

CACHED = 2**16  # numbers of one tile


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
        z = nodes[source[e]].mul_(gain[e]).add_(shift[e]).add_(target[to[e]])
        u = {"identity": lambda z: z, "relu": torch.relu_, "silu": lambda z: F.silu(z, inplace=True)}[activation](z)
        pooled[v] = segment_sum(u, offsets[v.start : v.stop + 1] - e.start)
        if update:
            updated[e] = u
    return pooled, updated


def backward(
    pooled: Tensor, updated: Tensor, nodes: Tensor, gain: Tensor, shift: Tensor, target: Tensor, source: Tensor, offsets: Tensor,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Tile by tile; gradients of nodes then go through the edges sorted by source."""
    to = targets_of(offsets, len(source))
    d_gain, g = torch.empty_like(gain), torch.empty_like(shift)
    d_target = torch.empty_like(target, memory_format=torch.contiguous_format)
    for v, e in tiles(offsets, shift.shape[1]):
        x = nodes[source[e]]
        own = pooled[to[e]]
        if len(updated):
            own.add_(updated[e])
        if activation != "identity":
            own.mul_(slope((x * gain[e]).add_(shift[e]).add_(target[to[e]]), activation))
        g[e] = own
        d_target[v] = segment_sum(own, offsets[v.start : v.stop + 1] - e.start)
        torch.mul(own, x, out=d_gain[e])
    order = source.argsort(stable=True)
    by_source = torch.zeros(len(nodes) + 1, dtype=torch.int64)
    by_source[1:] = torch.bincount(source, minlength=len(nodes)).cumsum(0)
    d_nodes = torch.empty_like(nodes, memory_format=torch.contiguous_format)
    for n, k in tiles(by_source, shift.shape[1]):
        edges = order[k]
        d_nodes[n] = segment_sum(g[edges].mul_(gain[edges]), by_source[n.start : n.stop + 1] - k.start)
    return d_nodes, d_gain, g, d_target
