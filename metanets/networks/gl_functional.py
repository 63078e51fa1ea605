"""Equivariant layers on what general linear groups leave: products of weights over the axes that they mix.

Inside an attention head the queries' and keys' weights may be multiplied by any M and M⁻ᵀ, values and output likewise; the two
halves of a low-rank pair too. Every polynomial that does not change is one in the contractions Σ_a P_a… Q_a… of what M
multiplies with what M⁻ᵀ multiplies (the first fundamental theorem for GL(n); for O(n), of all pairs). Those take the place
of the weights, with the axes that permutations move; on them stands a universal neural functional. "Equivariant Neural
Functional Networks for Transformers" (Tran et al., 2024) has the same idea for one hand-written transformer block; here
it is read off the inferred group.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import count
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphs.scalings.linear import LinearFactor
from metanets.batching import Models, Topology
from metanets.functional import FunctionalConfig, WeightFunctional
from metanets.layout import Layout, Piece, Places, layout_of, rows_of
from metanets.metanet import Metanet, register
from modelzoo.errors import UserError
from modelzoo.family import Paper


class GLFunctionalConfig(FunctionalConfig):
    """Sizes of a `GLFunctional`."""


@dataclass(frozen=True)
class Bond:
    """An axis that a linear factor mixes.

    Args:
        axis: its name in the layout.
        orthogonal: whether everything may be contracted with everything.
        sides: for every piece with this axis, by number, `[rows]`: 1 where M acts and −1 where M⁻ᵀ does.
    """

    axis: str
    orthogonal: bool
    sides: Mapping[int, Tensor]


@dataclass(frozen=True)
class Term:
    """Entries that move alike.

    Args:
        axes: names of factors.
        values: `[M, *axes, rows]`.
        sides: for every axis that is mixed linearly `[rows]`, 1 or −1.
    """

    axes: tuple[str, ...]
    values: Tensor
    sides: Mapping[str, Tensor]

    def chosen(self, axis: str, side: int) -> "Term":
        """The rows on one side of a linear group, 0 for both."""
        rows = torch.nonzero(self.sides[axis] == side)[:, 0] if side else torch.arange(self.values.shape[-1])
        return Term(self.axes, self.values[..., rows], {name: flags[rows] for name, flags in self.sides.items()})


@cache
def bonds(topology: Topology) -> tuple[Places, tuple[Bond, ...]]:
    """The layout of an architecture, and its axes that are mixed linearly."""
    group, structure = topology.symmetry
    places, found = layout_of(group, structure), []
    for factor in group.factors:
        if not isinstance(factor, LinearFactor):
            continue
        names = {f"{name}{copy}" for name in factor.absorbs for copy in ("", *(f" #{c}" for c in range(factor.copies)))}
        axes = [axis for axis in places.layout.sizes if axis in names]
        side = _sides(factor, topology)
        for axis in axes:
            sides = {}
            for number, (piece, index) in enumerate(zip(places.layout.pieces, places.index, strict=True)):
                if axis in piece.axes:
                    flags = side[index].flatten(1)
                    if piece.axes.count(axis) > 1 or bool((flags != flags[:, :1]).any()):
                        raise UserError(f"{factor.kind} acts twice on the same weights ({axis}); train unf.", 2)
                    sides[number] = flags[:, 0]
            found.append(Bond(axis, factor.orthogonal, sides))
        if not axes:
            raise UserError(f"{factor.kind} of {factor.name!r} mixes what no permutation moves; train unf.", 2)
    return places, tuple(found)


def _sides(factor: LinearFactor, topology: Topology) -> Tensor:
    """`[E]`: 1 for entries that M multiplies, −1 for M⁻ᵀ, 0 for others."""
    structure = topology.symmetry[1]
    tensors = structure.scatter(torch.zeros(1, structure.num_edges))
    for m in factor.mixed:
        positions = torch.from_numpy(np.ascontiguousarray(m.positions)).flatten()
        tensors[m.tensor].index_fill_(1 + m.dim, positions, -1.0 if m.inverse else 1.0)
    return structure.values(tensors)[0].long()


def contracted(models: Models) -> tuple[list[Term], Layout]:
    """The invariants of all linear groups of some models, and how they are moved."""
    places, found = bonds(models.topology)
    layout = places.layout
    terms = [
        Term(piece.axes, rows_of(models.values, index), {bond.axis: bond.sides[k] for bond in found if k in bond.sides})
        for k, (piece, index) in enumerate(zip(layout.pieces, places.index, strict=True))
    ]
    for bond in found:
        outer = _outer(bond.axis, layout.nested)
        met = [term for term in terms if bond.axis in term.axes]
        pairs = [(a, b) for i, a in enumerate(met) for b in (met[i:] if bond.orthogonal else met)]
        sides = (0, 0) if bond.orthogonal else (1, -1)
        products = [
            _product(a.chosen(bond.axis, sides[0]), b.chosen(bond.axis, sides[1]), bond.axis, outer) for a, b in pairs
        ]
        terms = [term for term in terms if bond.axis not in term.axes]
        terms += [product for product in products if product.values.shape[-1]]
    merged: dict[tuple[str, ...], list[Tensor]] = {}
    for term in terms:
        merged.setdefault(term.axes, []).append(term.values)
    terms = [Term(axes, torch.cat(values, -1), {}) for axes, values in merged.items()]
    used = {axis for term in terms for axis in term.axes}
    pieces = tuple(Piece(axes=term.axes, rows=term.values.shape[-1]) for term in terms)
    sizes = {axis: size for axis, size in layout.sizes.items() if axis in used}
    nested = {axis: outer for axis, outer in layout.nested.items() if axis in used}
    return terms, Layout(pieces=pieces, sizes=sizes, nested=nested)


def _outer(axis: str, nested: Mapping[str, str]) -> tuple[str, ...]:
    """The axes that an axis is nested in, outermost first."""
    return (*_outer(nested[axis], nested), nested[axis]) if axis in nested else ()


def _product(a: Term, b: Term, axis: str, outer: tuple[str, ...]) -> Term:
    """Σ over an axis of every row of one term times every row of another; the axes it is nested in are the same."""
    shared = tuple(name for name in outer if name in a.axes and name in b.axes)
    rest = [tuple(name for name in term.axes if name != axis and name not in shared) for term in (a, b)]
    if clash := (set(a.sides) & set(b.sides)) - {axis}:
        raise UserError(f"{' and '.join(clash)} and {axis} are mixed linearly in the same weights; train unf.", 2)
    numbers = count(3)  # 0, 1, 2: models and the rows of both
    common = {name: next(numbers) for name in (*shared, axis)}
    own = [{name: next(numbers) for name in dict.fromkeys(names)} for names in rest]
    labels = [[0, *(({**common, **own[k]})[name] for name in term.axes), 1 + k] for k, term in enumerate((a, b))]
    out = [0, *(common[name] for name in shared), *(own[k][name] for k in (0, 1) for name in rest[k]), 1, 2]
    values = torch.einsum(a.values, labels[0], b.values, labels[1], out).flatten(-2)
    rows = b.values.shape[-1]
    sides = {name: flags.repeat_interleave(rows) for name, flags in a.sides.items() if name != axis}
    sides |= {name: flags.repeat(a.values.shape[-1]) for name, flags in b.sides.items() if name != axis}
    return Term((*shared, *rest[0], *rest[1]), values, sides)


class GLFunctional(WeightFunctional):
    """Residual equivariant layers on the contractions of weights over linearly mixed axes.

    Shape:
        a batch of models of one architecture; outputs `[model, outputs]`, embeddings `[model, embedding]`.
    """

    @classmethod
    def places(cls, models: Models, fields: Mapping[str, Any]) -> Places:
        layout = contracted(Models(models.topology, models.values[:, :1]))[1]
        return Places(layout, tuple(_numbered(layout)))

    def values(self, models: Models) -> Tensor:
        return torch.cat([term.values.movedim((-1, 0), (0, -1)).flatten(0, -2) for term in contracted(models)[0]])


def _numbered(layout: Layout) -> Iterator[Tensor]:
    """The numbers of all entries, piece by piece, `[rows, *axes]`."""
    start = 0
    for piece in layout.pieces:
        shape = (piece.rows, *layout.shape(piece))
        yield torch.arange(start, start + prod(shape)).reshape(shape)
        start += prod(shape)


METANET = register(
    Metanet(
        name="gl_functional",
        module=GLFunctional,
        config=GLFunctionalConfig,
        paper=(Paper("Equivariant Neural Functional Networks for Transformers", "Tran et al.", 2024),),
        equivariance="GL",
        summary="A universal neural functional on products of weights over what general linear groups mix (attention heads).",
        tiny={"width": 4, "layers": 2, "embedding": 8},
        one_architecture=True,
        adapt=GLFunctional.adapt,
    )
)
