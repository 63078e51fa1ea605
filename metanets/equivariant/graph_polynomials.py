"""Equivariant polynomials of a matrix, one for every multigraph with marked vertices.

"Equivariant Polynomials for Graph Neural Networks" (Puny, Lim, Kiani, Maron, Lipman, 2023): for a directed multigraph H with
marked vertices i_1 … i_k, P_H(X)_{i_1 … i_k} = Σ over all other vertices of Π_{(r, s) ∈ H} X_{rs}; those with d edges are a
basis of the homogeneous polynomials of degree d in X ∈ R^{n×n} that are equivariant under S_n, for n large enough.
"""

from dataclasses import dataclass
from functools import cache
from itertools import permutations, product
from math import inf

import opt_einsum
import torch
from torch import Tensor, nn

from metanets.equivariant.enumeration import set_partitions


@dataclass(frozen=True)
class GraphPolynomial:
    """P_H of one multigraph.

    Args:
        edges: directed, with repetitions and loops.
        marked: the vertex of every output axis; vertices may repeat.
    """

    edges: tuple[tuple[int, int], ...]
    marked: tuple[int, ...] = ()

    @property
    def degree(self) -> int:
        """Number of edges."""
        return len(self.edges)

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate at matrices `[B, n, n]`: `[B, n, …, n]` with an axis for every mark."""
        batch = 1 + max((v for v in (*self.marked, *(v for edge in self.edges for v in edge))), default=-1)
        operands: list[object] = []
        for edge in self.edges:
            operands += [x, [batch, *edge]]
        axes = []
        for position, vertex in enumerate(self.marked):
            if vertex in self.marked[:position]:
                operands += [torch.eye(x.shape[-1]).to(x), [batch + 1 + position, vertex]]
                axes.append(batch + 1 + position)
            else:
                operands += [x.new_ones(x.shape[-1]), [vertex]]
                axes.append(vertex)
        operands += [x.new_ones(x.shape[0]), [batch]]
        result: Tensor = opt_einsum.contract(*operands, [batch, *axes], optimize="greedy")
        return result

    def width(self) -> float:
        """The largest number of neighbours met when the unmarked vertices are summed out one by one, fewest first.

        1: by sums over neighbours, as message passing does; 2: by matrix products, as provably powerful graph networks do.
        Up to 2 the order fewest-first is optimal, so that a value above 2 means that those do not suffice.
        """
        neighbours: dict[int, set[int]] = {v: set() for edge in self.edges for v in edge}
        for a, b in self.edges:
            neighbours[a] |= {b} - {a}
            neighbours[b] |= {a} - {b}
        widest = 0
        while rest := [v for v in neighbours if v not in self.marked]:
            vertex = min(rest, key=lambda v: len(neighbours[v]))
            around = neighbours.pop(vertex)
            widest = max(widest, len(around))
            for v in around:
                neighbours[v] = (neighbours[v] | around) - {v, vertex}
        return widest if len(set(self.marked)) <= 2 else inf


def _standard(labels: list[int]) -> tuple[int, ...]:
    names: dict[int, int] = {}
    return tuple(names.setdefault(label, len(names)) for label in labels)


@cache
def graph_polynomials(degree: int, order_out: int = 0, symmetric: bool = False) -> tuple[GraphPolynomial, ...]:
    """All polynomials of exactly that degree with values in tensors of order `order_out`.

    A multigraph is a partition of the ends of its edges and of its marks, up to the order of the edges.

    Args:
        degree: d, the number of edges.
        order_out: number of marks.
        symmetric: whether X is symmetric, so that edges have no direction.
    """
    found: dict[tuple[int, ...], GraphPolynomial] = {}
    flips = list(product((False, True), repeat=degree)) if symmetric else [(False,) * degree]
    for blocks in set_partitions(order_out + 2 * degree):
        vertex = {p: number for number, block in enumerate(blocks) for p in block}
        marks = [vertex[p] for p in range(order_out)]
        ends = [(vertex[order_out + 2 * e], vertex[order_out + 2 * e + 1]) for e in range(degree)]
        canonical = min(
            _standard([*marks, *(v for e, turned in zip(order, flip, strict=True) for v in (ends[e][::-1] if turned else ends[e]))])
            for order in permutations(range(degree))
            for flip in flips
        )  # fmt: skip
        if canonical not in found:
            edges = tuple(zip(canonical[order_out::2], canonical[order_out + 1 :: 2], strict=True))
            found[canonical] = GraphPolynomial(edges, canonical[:order_out])
    return tuple(found.values())


class GraphPolynomials(nn.Module):
    """Feature map X ↦ (P_H(X))_H: invariant (order 0), node (order 1) or edge (order 2) features of a matrix.

    Args:
        degree: the highest.
        order_out: number of output axes.
        width: only those that can be contracted with this width (1: message passing, 2: matrix products).
        symmetric: whether X is symmetric.

    Shape:
        input `[B, n, n]`, output `[B, n, …, n, F]`.
    """

    def __init__(self, degree: int, order_out: int = 0, width: int | None = None, symmetric: bool = False) -> None:
        super().__init__()
        self.polynomials = [
            polynomial
            for d in range(1, degree + 1)
            for polynomial in graph_polynomials(d, order_out, symmetric)
            if width is None or polynomial.width() <= width
        ]

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([polynomial(x) for polynomial in self.polynomials], -1)
