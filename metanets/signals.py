"""A forward pass imitated on the parameter graph, and positions as features."""

import itertools
from math import pi

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphs import NODE_KINDS
from metanets.batching import Topology

OCTAVES = 10  # positions up to 2^10 are told apart
PLACES = 64  # positions of inputs with a learned value of their own
WAVES = 2 * OCTAVES + 1
HIDDEN, CONSTANT = NODE_KINDS.index("hidden"), NODE_KINDS.index("constant")
INPUTS = torch.tensor([kind in ("input", "input_output") for kind in NODE_KINDS])


def waves(positions: Tensor) -> Tensor:
    """Binary digits of a position as phases, `[…, WAVES]`; -1 (no position) is a feature of its own."""
    angles = positions.clamp_min(0)[..., None] * (pi / 2.0 ** torch.arange(OCTAVES))
    known = (positions >= 0)[..., None].to(angles.dtype)
    return torch.cat([angles.sin() * known, angles.cos() * known, 1 - known], -1)


class Signals(nn.Module):
    """A forward pass imitated on the graph: u_i = act_c(Σ_j Σ_{edges j→i} α_c[tap] x_e u_j), level by level.

    Inputs hold learned values per position, constants 1; hidden nodes apply, by channel, a sine of learned frequency
    (five eighths), ReLU (two eighths) or tanh. Weights enter unscaled: a network whose activation is among
    those is evaluated exactly, at `signals` inputs.
    """

    GROUPS, SINES, RELUS = 8, 5, 2

    def __init__(self, signals: int) -> None:
        super().__init__()
        self.width = signals // self.GROUPS
        self.inputs = nn.Parameter(2 * torch.rand(PLACES, signals) - 1)
        self.beyond = nn.Linear(WAVES, signals)
        nn.init.zeros_(self.beyond.weight)
        nn.init.zeros_(self.beyond.bias)
        self.taps = nn.Linear(3 * WAVES, self.GROUPS)
        sines = torch.logspace(0, 1.6, self.SINES * self.width)  # 1 … 40
        shuffled = sines[torch.randperm(len(sines))].view(self.SINES, self.width)
        self.log_frequency = nn.Parameter(shuffled.log())

    def activate(self, u: Tensor) -> Tensor:
        """`[…, GROUPS, width]`."""
        sines, relus, rest = u.tensor_split([self.SINES, self.SINES + self.RELUS], -2)
        return torch.cat([torch.sin(self.log_frequency.exp() * sines), F.relu(relus), torch.tanh(rest)], -2)

    def forward(self, topology: Topology, values: Tensor) -> Tensor:
        """Values `[E, M]` to signals `[N, M, signals]`."""
        dtype, models = values.dtype, values.shape[1]
        position = topology.codes[:, 3:]
        factor = self.taps(waves(position).flatten(1).to(dtype)) * (position >= 0).any(1, keepdim=True)
        weights = topology.pair_map(values[..., None], (1 + factor)[:, None])  # [P, M, GROUPS]
        start = self.inputs[topology.node_position.remainder(PLACES)] + self.beyond(
            waves(topology.node_position).to(dtype)
        )
        start = start * INPUTS[topology.node_kind][:, None] + (topology.node_kind == CONSTANT)[:, None]
        u = start.view(-1, 1, self.GROUPS, self.width).expand(-1, models, -1, -1)
        parts = list(zip(topology.blocks, topology.split(weights), strict=True))
        for _ in range(2 if topology.recurrent else 1):
            for _, level in itertools.groupby(parts, key=lambda part: part[0].level):
                nodes, sums = [], []
                for block, part in level:  # every node is a target of one block only
                    nodes.append(block.targets.flatten())
                    sums.append(torch.einsum("btsmq,bsmqc->btmqc", part, u[block.sources]).flatten(0, 1))
                where, total = torch.cat(nodes), torch.cat(sums)
                hidden = (topology.node_kind[where] == HIDDEN)[:, None, None, None]
                u = u.index_copy(0, where, torch.where(hidden, self.activate(total), total))
        return u.flatten(2)
