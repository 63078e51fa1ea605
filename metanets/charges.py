"""Scales and signs of a symmetry group as charges of edges and nodes.

Under a positive diagonal element t the value of an edge becomes (v + o) exp(A_e t) − o, under a sign element it is multiplied by
(−1)^⟨χ_e, s⟩. Both are read off the group's factors by applying them, for any architecture. Scales are then taken out
exactly and in closed form: the element that brings the mean squares of edges with equal charge closest to one, in the least
squares of their logarithms, is applied. Signs stay, as charges: a neuron has the charge of what it computes.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from graphs.scalings.diagonal import DiagonalFactor
from metanets.batching import Topology


@dataclass(frozen=True, eq=False)
class Charges:
    """How the diagonal part of a group acts on the edges of a topology.

    Args:
        row: `[E]` which exponents an edge has, −1 for none.
        exponents: `[R, K]`, distinct rows.
        count: `[R]` edges with these exponents.
        offset: `[E]`, o.
        edge: `[E]` number of an edge's sign charge, 0 for none.
        node: `[N]` numbers of the sign charges of nodes, likewise.
        along: `[E]` number of the charge of value times source.
        against: `[E]` number of the charge of value times target.
    """

    row: Tensor
    exponents: Tensor
    count: Tensor
    offset: Tensor
    edge: Tensor
    node: Tensor
    along: Tensor
    against: Tensor

    def balance(self, values: Tensor) -> Tensor:
        """Values `[E, M]` with all positive scales taken out."""
        offset = self.offset[:, None]
        return ((values.double() + offset) * self.factors(values) - offset).to(values.dtype)

    def factors(self, values: Tensor) -> Tensor:
        """What `balance` multiplies values `[E, M]` by, in double precision."""
        shifted = values.double() + self.offset[:, None]
        if not len(self.exponents):
            return torch.ones_like(shifted)
        at = self.row >= 0
        rows = self.row[at]
        sums = shifted.new_zeros(len(self.exponents), values.shape[1]).index_add(0, rows, shifted[at].square())
        squares = sums / self.count[:, None]
        patterns, pattern = torch.unique(squares > 0, dim=1, return_inverse=True)  # what is zero has no scale
        chosen = shifted.new_zeros(self.exponents.shape[1], values.shape[1])  # [K, M]
        for k, known in enumerate(patterns.T):
            own = pattern == k
            chosen[:, own] = (
                self.solution(tuple(known.tolist())) @ torch.where(known[:, None], squares[:, own], 1).log()
            )
        factor = (self.exponents @ chosen).exp()[rows]
        return torch.ones_like(shifted).index_copy(0, torch.nonzero(at)[:, 0], factor)

    @cache  # noqa: B019 (charges live as long as the program)
    def solution(self, known: tuple[bool, ...]) -> Tensor:
        """`[K, R]`: from logarithms of mean squares to the element, least squares over the rows that are known."""
        weight = torch.where(torch.tensor(known), self.count, 0).sqrt()[:, None]
        return -torch.linalg.pinv(weight * self.exponents) * weight.T / 2


@cache
def charges(topology: Topology) -> Charges:
    """The charges of an architecture; raises `UserError` where its group is not at hand."""
    group, structure = topology.symmetry
    factors = [f for f in group.factors if isinstance(f, DiagonalFactor)]
    ones = structure.scatter(torch.ones(1, structure.num_edges, dtype=torch.float64))
    positive, offset = _positive([f for f in factors if f.question == "positive"], topology, ones)
    rows, row = np.unique(positive.round(9), axis=0, return_inverse=True)
    order = np.flatnonzero(rows.any(1)) if rows.shape[1] else np.empty(0, np.int64)
    place = np.full(len(rows), -1)
    place[order] = np.arange(len(order))
    row, exponents = place[row.ravel()], rows[order]
    count = torch.from_numpy(np.bincount(row[row >= 0], minlength=len(order)).astype(np.float64))
    return Charges(torch.from_numpy(row), torch.from_numpy(exponents), count, torch.from_numpy(offset),
                   *_signs([f for f in factors if f.question == "sign"], topology, ones))  # fmt: skip


def _applied(factor: DiagonalFactor, topology: Topology, tensors: dict[str, Tensor]) -> Tensor:
    """The edge values of the tensors under every generator, `[k, E]`."""
    structure = topology.symmetry[1]
    moved = factor.apply(torch.eye(factor.count, dtype=factor.identity().dtype), tensors)
    every = {name: moved.get(name, tensor) for name, tensor in tensors.items()}
    return structure.values({name: t.expand(factor.count, *t.shape[1:]) for name, t in every.items()})


def _positive(
    factors: list[DiagonalFactor], topology: Topology, ones: dict[str, Tensor]
) -> tuple[np.ndarray, np.ndarray]:
    """Exponents `[E, K]` and offsets `[E]`."""
    exponents, offset = [np.zeros((topology.edges, 0))], np.zeros(topology.edges)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in ones.items()}
    for factor in factors:
        at_one, at_zero = (_applied(factor, topology, each).numpy() for each in (ones, zeros))
        at_zero[:, _structural(topology)] = 0
        slope = at_one - at_zero
        exponents.append(np.log(slope).T)
        shifted = at_zero / np.where(np.abs(slope - 1) > 1e-9, slope - 1, np.inf)
        offset = np.maximum(offset, shifted.max(0))
    return np.concatenate(exponents, 1), offset


def _structural(topology: Topology) -> np.ndarray:
    structure = topology.symmetry[1]
    return np.arange(topology.edges) >= sum(record.edges for record in structure.records)


def _signs(factors: list[DiagonalFactor], topology: Topology, ones: dict[str, Tensor]) -> list[Tensor]:
    """Numbers of the charges of edges, nodes, and products of edges with their ends."""
    bits = [(_applied(f, topology, ones) < 0).T.numpy() for f in factors]
    packed = np.packbits(np.concatenate([*bits, np.zeros((topology.edges, 1), bool)], 1), axis=1)
    edge = [int.from_bytes(row.tobytes()) for row in packed]
    source, target = topology.edge_index.tolist()
    incoming: list[list[tuple[int, int]]] = [[] for _ in range(topology.nodes)]
    for charge, of, to in zip(edge, source, target, strict=True):
        incoming[to].append((charge, of))
    node = [0] * topology.nodes
    for i in topology.node_depth.argsort(stable=True).tolist():
        votes = Counter(charge ^ node[j] for charge, j in incoming[i] if charge ^ node[j])
        ranked = votes.most_common(2)
        if ranked and (len(ranked) == 1 or ranked[0][1] > ranked[1][1]):  # a tie would depend on the order of neurons
            node[i] = ranked[0][0]
    along = [charge ^ node[j] for charge, j in zip(edge, source, strict=True)]
    against = [charge ^ node[j] for charge, j in zip(edge, target, strict=True)]
    number = {charge: k for k, charge in enumerate(sorted({0, *edge, *node, *along, *against}))}  # 0 stays 0
    return [
        torch.tensor([number[charge] for charge in each], dtype=torch.int64) for each in (edge, node, along, against)
    ]
