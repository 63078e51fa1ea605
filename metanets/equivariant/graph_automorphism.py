"""Bilabelled graphs: the maps equivariant under the automorphisms of a graph.

"Graph Automorphism Group Equivariant Neural Networks" (Pearce-Crump and Knottenbelt, 2023), after Mančinska and Roberson:
the matrices that count homomorphisms H → G, for graphs H with k input and l output labels on their vertices, span the
maps (R^n)^{⊗k} → (R^n)^{⊗l} that commute with Aut(G).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, permutations

import numpy as np
import opt_einsum
from numpy.typing import NDArray

from metanets.equivariant.diagrams import Blocks, Diagram
from metanets.equivariant.enumeration import set_partitions
from metanets.equivariant.groups import GraphAutomorphism, Group

Edges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class BilabelledGraph:
    """A graph H whose labels are the points of a diagram: one vertex for every block, and unlabelled ones.

    Args:
        diagram: where the labels sit; it has no head.
        edges: pairs of vertices; vertex `i` is block `i`, the unlabelled vertices follow.
        unlabelled: their number.
    """

    diagram: Diagram
    edges: Edges = ()
    unlabelled: int = 0

    @property
    def lower(self) -> int:
        """k, the order of the input."""
        return self.diagram.lower

    @property
    def upper(self) -> int:
        """l, the order of the output."""
        return self.diagram.upper

    @property
    def blocks(self) -> Blocks:
        """Which labels share a vertex."""
        return self.diagram.blocks

    def homomorphisms(self, adjacency: NDArray[np.float64]) -> NDArray[np.float64]:
        """Numbers of homomorphisms for every placement of the labelled vertices, one axis for each."""
        n, labelled = len(adjacency), len(self.blocks)
        operands: list[object] = []
        for edge in self.edges:
            operands += [adjacency, list(edge)]
        touched = {v for edge in self.edges for v in edge}
        for vertex in range(labelled):
            if vertex not in touched:
                operands += [np.ones(n), [vertex]]
        if not operands:
            return np.ones(())
        return np.asarray(opt_einsum.contract(*operands, list(range(labelled)), optimize="greedy"))

    def matrix(self, group: Group) -> NDArray[np.float64]:
        """X_H, `[n^l, n^k]`: entry (I, J) counts the homomorphisms H → G that send output labels to I and input labels to J.

        Raises:
            ValueError: the group is not the automorphism group of a graph.
        """
        if not isinstance(group, GraphAutomorphism):
            raise ValueError(f"a bilabelled graph needs the automorphism group of a graph, got {group}")
        n, points = group.n, self.diagram.points
        strides = n ** np.arange(points)[::-1]
        assignments = np.indices((n,) * len(self.blocks)).reshape(len(self.blocks), n ** len(self.blocks))
        where = np.zeros(assignments.shape[1], dtype=np.int64)
        for block, index in zip(self.blocks, assignments, strict=True):
            where += index * int(strides[list(block)].sum())
        entries = np.zeros(n**points)
        entries[where] = self.homomorphisms(group.adjacency).ravel()
        return entries.reshape(n**self.upper, n**self.lower)

    def draw(self, title: str = "") -> str:
        """The picture, as an SVG document."""
        from metanets.equivariant.drawing import svg

        return svg(self.diagram, title, self.edges)


def orbit_representatives(group: GraphAutomorphism, order: int) -> NDArray[np.int64]:
    """`[orbits, order]` the first index tuple of every orbit of the group."""
    n = group.n
    tuples = np.indices((n,) * order).reshape(order, n**order).T  # [n^order, order]
    strides = n ** np.arange(order)[::-1]
    first = np.arange(n**order)
    for images in group.automorphisms:
        first = np.minimum(first, images[tuples] @ strides) if order else first
    return tuples[np.unique(first)] if order else np.zeros((1, 0), dtype=np.int64)


@lru_cache(maxsize=64)
def bilabelled_graphs(group: GraphAutomorphism, lower: int, upper: int) -> tuple[BilabelledGraph, ...]:
    """Bilabelled graphs, smallest first, until their matrices span: those that say something new.

    Graphs are taken by number of unlabelled vertices, then of edges; one whose matrix lies in the span of those before is
    left out, so what is returned is a basis.

    Args:
        group: of the graph G.
        lower: k.
        upper: l.

    Returns:
        As many graphs as the space has dimensions.
    """
    order = lower + upper
    representatives = orbit_representatives(group, order)
    directions = np.zeros((0, len(representatives)))
    found: list[BilabelledGraph] = []
    for graph in _graphs(lower, upper, group.n, group.directed):
        vector = _on_orbits(graph, group, representatives)
        size = np.linalg.norm(vector)
        rest = vector - directions.T @ (directions @ vector)
        rest -= directions.T @ (directions @ rest)
        if np.linalg.norm(rest) > 1e-8 * size:
            found.append(graph)
            directions = np.vstack([directions, rest / np.linalg.norm(rest)])
        if len(found) == len(representatives):
            return tuple(found)
    raise AssertionError(f"{len(found)} of {len(representatives)} dimensions found")  # contradicts the theorem


def _on_orbits(
    graph: BilabelledGraph, group: GraphAutomorphism, representatives: NDArray[np.int64]
) -> NDArray[np.float64]:
    counts = graph.homomorphisms(group.adjacency)
    first = [block[0] for block in graph.blocks]
    values = (
        counts[tuple(representatives[:, p] for p in first)] if first else np.full(len(representatives), float(counts))
    )
    fits = np.ones(len(representatives), dtype=bool)
    for block in graph.blocks:
        fits &= (representatives[:, list(block)] == representatives[:, [block[0]]]).all(1)
    return np.where(fits, values, 0.0)


def _graphs(lower: int, upper: int, n: int, directed: bool) -> Iterator[BilabelledGraph]:
    """Bilabelled graphs with up to n unlabelled vertices, each of them on a path to a label."""
    partitions = [Diagram(lower, upper, blocks) for blocks in set_partitions(lower + upper, n)]
    for unlabelled in range(n + 1):
        most = max(len(d.blocks) for d in partitions) + unlabelled
        for size in range(unlabelled, most * (most - 1) + 1):
            for diagram in partitions:
                vertices = range(len(diagram.blocks) + unlabelled)
                pairs = list((permutations if directed else combinations)(vertices, 2))
                for edges in combinations(pairs, size):
                    if _anchored(edges, len(diagram.blocks), unlabelled):
                        yield BilabelledGraph(diagram, edges, unlabelled)


def _anchored(edges: Edges, labelled: int, unlabelled: int) -> bool:
    """Whether every unlabelled vertex hangs on a label; a free component only multiplies by a number."""
    reached = set(range(labelled))
    grew = True
    while grew:
        new = {v for edge in edges for v in edge if reached & {*edge}} - reached
        reached |= new
        grew = bool(new)
    return len(reached) == labelled + unlabelled
