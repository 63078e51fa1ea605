"""Gather, modulate, add up, with everything stored. Reads NC + 2 EC + VC, writes VC and with the update EC."""

import torch
from torch import Tensor


def activate(z: Tensor, activation: str) -> Tensor:
    """act(z)."""
    return {"identity": lambda: z, "relu": z.relu, "silu": lambda: z * z.sigmoid()}[activation]()


def slope(z: Tensor, activation: str) -> Tensor:
    """act'(z)."""
    if activation == "identity":
        return torch.ones_like(z)
    if activation == "relu":
        return (z > 0).to(z.dtype)
    s = z.sigmoid()
    return s * (1 + z * (1 - s))


def targets_of(offsets: Tensor, edges: int) -> Tensor:
    """`[E]`, the target of every edge."""
    return torch.repeat_interleave(offsets.diff(), output_size=edges)


def forward(
    nodes: Tensor, gain: Tensor, shift: Tensor, target: Tensor, source: Tensor, offsets: Tensor, activation: str, update: bool
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See `edge_message`."""
    to = targets_of(offsets, len(source))
    updated = activate(gain * nodes[source] + shift + target[to], activation)
    pooled = torch.zeros_like(target).index_add(0, to, updated)
    return pooled, updated if update else updated[:0].clone()


def backward(
    pooled: Tensor, updated: Tensor, nodes: Tensor, gain: Tensor, shift: Tensor, target: Tensor, source: Tensor, offsets: Tensor,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """g_e = (dpooled_target(e) + du_e) ⊙ act'(z_e); dgain = g ⊙ x_source, dshift = g, dy = Σ g, dx = Σ g ⊙ gain."""
    to = targets_of(offsets, len(source))
    given = pooled[to] + updated if len(updated) else pooled[to]
    g = given * slope(gain * nodes[source] + shift + target[to], activation)
    d_nodes = torch.zeros_like(nodes).index_add(0, source, g * gain)
    return d_nodes, g * nodes[source], g, torch.zeros_like(target).index_add(0, to, g)
