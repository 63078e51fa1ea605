"""A forward pass imitated on the parameter graph, and positions as features."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
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
        """`[M, GROUPS, n, width]`."""
        sines, relus, rest = u.tensor_split([self.SINES, self.SINES + self.RELUS], 1)
        frequency = self.log_frequency.exp()[:, None]
        return torch.cat([torch.sin(frequency * sines), F.relu(relus), torch.tanh(rest)], 1)

    def forward(self, topology: Topology, values: Tensor) -> Tensor:
        """Values `[E, M]` to signals `[M, N, signals]`."""
        dtype, models = values.dtype, values.shape[1]
        position = topology.codes[:, 3:]
        factor = self.taps(waves(position).flatten(1).to(dtype)) * (position >= 0).any(1, keepdim=True)
        weights = topology.pair_map(values[..., None], (1 + factor)[:, None])  # [P, M, GROUPS]
        start = self.inputs[topology.node_position.remainder(PLACES)] + self.beyond(
            waves(topology.node_position).to(dtype)
        )
        start = start * INPUTS[topology.node_kind][:, None] + (topology.node_kind == CONSTANT)[:, None]
        start = start.view(-1, self.GROUPS, self.width).transpose(0, 1)  # [GROUPS, N, width]
        split = [part.permute(3, 4, 0, 1, 2).contiguous() for part in topology.split(weights)]  # [M, GROUPS, b, t, s]
        steps, every = schedule(topology)
        found: list[Tensor] = []
        for step in steps:
            total = torch.cat(
                [
                    (split[k] @ rows.take(start, found, models).unflatten(2, topology.blocks[k].sources.shape)).flatten(2, 3)
                    for k, rows in step.blocks
                ], 2,
            )  # fmt: skip
            found.append(torch.where(step.hidden[:, None], self.activate(total), total))
        return every.take(start, found, models).transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class Rows:
    """Where the newest signals of some nodes are: first start values, then those of earlier steps.

    Args:
        parts: number of the step (-1 for start values) and rows of it, None for all.
        order: that brings the parts together, None where they are in order.
    """

    parts: tuple[tuple[int, Tensor | None], ...]
    order: Tensor | None

    def take(self, start: Tensor, found: Sequence[Tensor], models: int) -> Tensor:
        """`[M, GROUPS, n, width]`."""
        taken = []
        for step, rows in self.parts:
            held = start if step < 0 else found[step]
            held = held if rows is None else held.index_select(-2, rows)
            taken.append(held.expand(models, -1, -1, -1) if step < 0 else held)
        together = torch.cat(taken, 2) if len(taken) > 1 else taken[0]
        return together if self.order is None else together.index_select(2, self.order)


@dataclass(frozen=True)
class Step:
    """The blocks of one level, each with where its sources are, and which of their targets are hidden."""

    blocks: tuple[tuple[int, Rows], ...]
    hidden: Tensor


@cache
def schedule(topology: Topology) -> tuple[list[Step], Rows]:
    """The steps of a forward pass over a graph, level by level (twice where it is recurrent), and where all nodes end up.

    Signals are kept step by step: a gradient then flows into the rows of one step, not into an array of all nodes.
    """
    step_of, row_of = torch.full((topology.nodes,), -1), torch.arange(topology.nodes)
    sizes = {-1: topology.nodes}

    def rows(nodes: Tensor) -> Rows:
        held, order, parts, offset = step_of[nodes], torch.empty_like(nodes), [], 0
        for step in dict.fromkeys(held.tolist()):
            own = held == step
            wanted, place = torch.unique(row_of[nodes[own]], return_inverse=True)
            parts.append((step, None if len(wanted) == sizes[step] else wanted))
            order[own] = place + offset
            offset += len(wanted)
        return Rows(tuple(parts), None if torch.equal(order, torch.arange(offset)) else order)

    steps: list[Step] = []
    for _ in range(2 if topology.recurrent else 1):
        for _, level in itertools.groupby(enumerate(topology.blocks), key=lambda item: item[1].level):
            blocks = list(level)
            where = torch.cat([block.targets.flatten() for _, block in blocks])  # a node is a target of one block only
            steps.append(
                Step(tuple((k, rows(block.sources.flatten())) for k, block in blocks), topology.node_kind[where] == HIDDEN)
            )  # fmt: skip
            step_of[where], row_of[where] = len(steps) - 1, torch.arange(len(where))
            sizes[len(steps) - 1] = len(where)
    return steps, rows(torch.arange(topology.nodes))
