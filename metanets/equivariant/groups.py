"""Groups of n × n matrices whose equivariant maps between tensors are spanned by diagrams.

A group is a small frozen object: its diagrams, its random elements, its generators, and the exact dimension of the space
of equivariant maps `Hom_G((R^n)^{⊗k}, (R^n)^{⊗l})`, which depends on k + l alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from typing import Any

import networkx as nx
import numpy as np
from networkx.algorithms.isomorphism import DiGraphMatcher, GraphMatcher
from numpy.typing import NDArray

from metanets.equivariant.diagrams import Diagram
from metanets.equivariant.enumeration import (
    bell,
    brauer_diagrams,
    free_point_diagrams,
    jellyfish_diagrams,
    partition_diagrams,
    stirling,
)
from modelzoo.errors import UserError

Matrix = NDArray[np.float64]
Shape = tuple[int, ...]  # a Young diagram: decreasing row lengths
MOST_AUTOMORPHISMS = 50_000


class Group(ABC):
    """A group of real n × n matrices.

    Attributes:
        n: the dimension of the defining representation R^n.
        compact: whether elements are orthogonal, so that they keep their inverse as transpose.
    """

    n: int
    compact = True

    @property
    def loop(self) -> int:
        """What a closed component of a composition is worth."""
        return self.n

    @property
    def form(self) -> Matrix | None:
        """The bilinear form of a symplectic group: it sits on the pairs inside one row; None for all others."""
        return None

    @abstractmethod
    def diagrams(self, lower: int, upper: int) -> Sequence[Any]:
        """A spanning set of the equivariant maps from k-fold to l-fold tensors."""

    @abstractmethod
    def dimension(self, order: int) -> int:
        """The dimension of the invariant tensors of that order, which is the one of the maps with k + l = order."""

    @abstractmethod
    def element(self, random: np.random.Generator) -> Matrix:
        """A random element."""

    def generators(self) -> list[Matrix]:
        """Finitely many elements which, with the exponentials of `algebra`, generate the group."""
        return []

    def algebra(self) -> list[Matrix]:
        """A basis of the Lie algebra; empty for a finite group."""
        return []


def _positive(n: int, least: int, what: str) -> None:
    if n < least:
        raise UserError(f"{what} needs n of at least {least}, got {n}; choose a larger n.", 2)


def permutation_matrix(images: Sequence[int]) -> Matrix:
    """The matrix that sends basis vector `i` to basis vector `images[i]`."""
    matrix = np.zeros((len(images), len(images)))
    matrix[list(images), range(len(images))] = 1
    return matrix


@dataclass(frozen=True)
class Symmetric(Group):
    """S_n, all permutations: partition diagrams ("Connecting Permutation Equivariant Neural Networks and Partition Diagrams")."""

    n: int

    def __post_init__(self) -> None:
        _positive(self.n, 1, "S_n")

    def diagrams(self, lower: int, upper: int) -> list[Diagram]:
        return partition_diagrams(lower, upper)

    def dimension(self, order: int) -> int:
        return bell(order, self.n)  # Σ_{t≤n} S(m, t): patterns of equal indices

    def element(self, random: np.random.Generator) -> Matrix:
        return permutation_matrix([int(i) for i in random.permutation(self.n)])

    def generators(self) -> list[Matrix]:
        cycle = [*range(1, self.n), 0]
        swap = [*range(self.n)]
        swap[:2] = swap[:2][::-1]
        return [permutation_matrix(cycle), permutation_matrix(swap)]


@dataclass(frozen=True)
class Alternating(Group):
    """A_n, even permutations: partition diagrams and jellyfish ("How Jellyfish Characterise Alternating Group Equivariant Neural Networks")."""

    n: int

    def __post_init__(self) -> None:
        _positive(self.n, 2, "A_n")

    def diagrams(self, lower: int, upper: int) -> list[Diagram]:
        return partition_diagrams(lower, upper) + jellyfish_diagrams(lower, upper, self.n)

    def dimension(self, order: int) -> int:
        # an orbit of S_n on index tuples splits in two when its stabiliser S_{n-t} is even: t = n or n-1
        return bell(order, self.n) + stirling(order, self.n) + stirling(order, self.n - 1)

    def element(self, random: np.random.Generator) -> Matrix:
        images = random.permutation(self.n)
        if np.linalg.det(permutation_matrix(images.tolist())) < 0:
            images[:2] = images[:2][::-1].copy()
        return permutation_matrix(images.tolist())

    def generators(self) -> list[Matrix]:
        found = []
        for third in range(2, self.n):
            images = [*range(self.n)]
            images[0], images[1], images[third] = 1, third, 0
            found.append(permutation_matrix(images))
        return found or [np.eye(self.n)]


def _walks(order: int, allowed: Callable[[Shape], bool]) -> dict[Shape, int]:
    """Walks of that many steps from the empty Young diagram, each adding or removing a box, inside the allowed shapes."""
    counts: dict[Shape, int] = {(): 1}
    for _ in range(order):
        following: dict[Shape, int] = {}
        for shape, count in counts.items():
            rows = [*shape, 0]
            for row in range(len(rows)):
                for step in (1, -1):
                    changed = [*rows]
                    changed[row] += step
                    if min(changed) < 0 or changed != sorted(changed, reverse=True):
                        continue
                    target = tuple(r for r in changed if r)
                    if allowed(target):
                        following[target] = following.get(target, 0) + count
        counts = following
    return counts


@cache
def _orthogonal_walks(n: int, order: int) -> dict[Shape, int]:
    # irreducible representations of O(n): shapes whose first two columns have at most n boxes together
    return _walks(order, lambda shape: len(shape) + sum(row > 1 for row in shape) <= n)


def _rotation_algebra(n: int) -> list[Matrix]:
    found = []
    for i in range(n):
        for j in range(i):
            matrix = np.zeros((n, n))
            matrix[i, j], matrix[j, i] = 1, -1
            found.append(matrix)
    return found


@dataclass(frozen=True)
class Orthogonal(Group):
    """O(n), rotations and reflections: Brauer diagrams, a basis when n ≥ (k+l)/2."""

    n: int

    def __post_init__(self) -> None:
        _positive(self.n, 1, "O(n)")

    def diagrams(self, lower: int, upper: int) -> list[Diagram]:
        return brauer_diagrams(lower, upper)

    def dimension(self, order: int) -> int:
        return _orthogonal_walks(self.n, order).get((), 0)

    def element(self, random: np.random.Generator) -> Matrix:
        q, r = np.linalg.qr(random.normal(size=(self.n, self.n)))
        return q * np.sign(np.diag(r))

    def generators(self) -> list[Matrix]:
        return [np.diag([-1.0] + [1.0] * (self.n - 1))]

    def algebra(self) -> list[Matrix]:
        return _rotation_algebra(self.n)


@dataclass(frozen=True)
class SpecialOrthogonal(Group):
    """SO(n), rotations: Brauer diagrams, and diagrams with n free points held by the Levi-Civita symbol."""

    n: int

    def __post_init__(self) -> None:
        _positive(self.n, 1, "SO(n)")

    def diagrams(self, lower: int, upper: int) -> list[Diagram]:
        return brauer_diagrams(lower, upper) + free_point_diagrams(lower, upper, self.n)

    def dimension(self, order: int) -> int:
        walks = _orthogonal_walks(self.n, order)
        return walks.get((), 0) + walks.get((1,) * self.n, 0)  # invariants of O(n), and multiples of the determinant

    def element(self, random: np.random.Generator) -> Matrix:
        q = Orthogonal(self.n).element(random)
        q[:, 0] *= np.linalg.det(q)
        return q

    def algebra(self) -> list[Matrix]:
        return _rotation_algebra(self.n)


@dataclass(frozen=True)
class Symplectic(Group):
    """Sp(n), n even: matrices with gᵀΩg = Ω. Brauer diagrams whose pairs inside one row carry Ω; a basis when n ≥ k+l."""

    n: int
    compact = False

    def __post_init__(self) -> None:
        _positive(self.n, 2, "Sp(n)")
        if self.n % 2:
            raise UserError(f"Sp(n) needs an even n, got {self.n}; choose {self.n + 1}.", 2)

    @property
    def loop(self) -> int:
        return -self.n

    @property
    def form(self) -> Matrix:
        half = self.n // 2
        return np.block([[np.zeros((half, half)), np.eye(half)], [-np.eye(half), np.zeros((half, half))]])

    def diagrams(self, lower: int, upper: int) -> list[Diagram]:
        return brauer_diagrams(lower, upper)

    def dimension(self, order: int) -> int:
        return _walks(order, lambda shape: len(shape) <= self.n // 2).get((), 0)

    def element(self, random: np.random.Generator) -> Matrix:
        from scipy.linalg import expm

        symmetric = random.normal(size=(self.n, self.n)) / (2 * self.n)
        return np.asarray(expm(self.form @ (symmetric + symmetric.T)))

    def algebra(self) -> list[Matrix]:
        found = []
        for i in range(self.n):
            for j in range(i + 1):
                symmetric = np.zeros((self.n, self.n))
                symmetric[i, j] = symmetric[j, i] = 1
                found.append(self.form @ symmetric)
        # those of the diagonal torus first: they cut the search for invariants down to coordinates
        return sorted(found, key=lambda a: np.count_nonzero(a - np.diag(np.diag(a))))


@dataclass(frozen=True)
class GraphAutomorphism(Group):
    """Aut(G) of a small networkx graph, directed or not: bilabelled graphs ("Graph Automorphism Group Equivariant Neural Networks").

    Args:
        edges: pairs of node numbers; see `of` for any networkx graph.
        n: number of nodes.
        directed: whether an edge has a direction.
    """

    edges: frozenset[tuple[int, int]]
    n: int
    directed: bool = False

    @classmethod
    def of(cls, graph: "nx.Graph[Any] | nx.DiGraph[Any]") -> "GraphAutomorphism":
        """The automorphism group of a graph; nodes are numbered in the graph's order."""
        place: dict[Hashable, int] = {node: i for i, node in enumerate(graph)}
        if any(a == b for a, b in graph.edges):
            raise UserError("the graph has a loop at a node, which is not supported; remove it.")
        edges = {(place[a], place[b]) for a, b in graph.edges}
        return cls(
            frozenset(edges if graph.is_directed() else {(min(e), max(e)) for e in edges}),
            len(place),
            graph.is_directed(),
        )

    @property
    def graph(self) -> "nx.Graph[int] | nx.DiGraph[int]":
        """The graph, with nodes 0 … n-1."""
        graph: nx.Graph[int] | nx.DiGraph[int] = nx.DiGraph() if self.directed else nx.Graph()
        graph.add_nodes_from(range(self.n))
        graph.add_edges_from(self.edges)
        return graph

    @property
    def adjacency(self) -> Matrix:
        """`[n, n]` zeros and ones."""
        return np.asarray(nx.to_numpy_array(self.graph, nodelist=range(self.n)))

    @cached_property
    def automorphisms(self) -> NDArray[np.int64]:
        """`[elements, n]` all of them, as images of the nodes."""
        matcher = (DiGraphMatcher if self.directed else GraphMatcher)(self.graph, self.graph)
        found = list(islice(matcher.isomorphisms_iter(), MOST_AUTOMORPHISMS + 1))
        if len(found) > MOST_AUTOMORPHISMS:
            raise UserError(
                f"the graph has more than {MOST_AUTOMORPHISMS:,} automorphisms; for a complete or empty graph use Symmetric({self.n})."
            )
        return np.array([[each[i] for i in range(self.n)] for each in found])

    def diagrams(self, lower: int, upper: int) -> Sequence[Any]:
        from metanets.equivariant.graph_automorphism import bilabelled_graphs

        return bilabelled_graphs(self, lower, upper)

    def dimension(self, order: int) -> int:
        # Burnside: the mean number of index tuples that an element leaves in place
        fixed = (self.automorphisms == np.arange(self.n)).sum(1)
        return sum(int(f) ** order for f in fixed) // len(fixed)

    def element(self, random: np.random.Generator) -> Matrix:
        return permutation_matrix(self.automorphisms[random.integers(len(self.automorphisms))].tolist())

    def generators(self) -> list[Matrix]:
        return [permutation_matrix(images.tolist()) for images in self.automorphisms]
