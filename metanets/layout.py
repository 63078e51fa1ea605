"""The weights of an architecture as tensors whose axes its permutation group moves: what weight-space layers read.

Read off the group, never typed: `SymmetryGroup.pooling_axes` says for every dimension of every tensor which factor moves
which index. Entries that move alike form a *piece*, a tensor with one axis for every factor that moves it and one last
axis over what no factor moves (kernel taps, gates, input positions, several tensors with the same neurons). Packed and
merged dimensions (gates of an LSTM, C·H·W before a linear layer, heads inside an embedding) come apart by themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from graphs import NODE_KINDS, GraphStructure, PoolingAxis, SymmetryGroup
from graphs.factors import AxisMap, PermutationFactor
from graphs.symmetry import permutation_factors
from metanets.equivariant import Symmetric, TensorSpace
from modelzoo.errors import UserError

Integers = NDArray[np.int64]
Column = tuple[str, Integers]  # axis name, `[entries]` place along it (−1: not moved)
ENDS = {"input": (0, ("input", "input_output")), "output": (1, ("output", "input_output"))}


class Piece(BaseModel):
    """A tensor of entries that move alike, `[*axes, rows]`.

    Args:
        axes: names of factors, one an axis.
        rows: entries at every place of the axes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    axes: tuple[str, ...]
    rows: int


class Layout(BaseModel):
    """The pieces of an architecture, without saying where their entries are.

    Args:
        pieces: in a fixed order.
        sizes: length of the axes by factor.
        nested: factors inside blocks of another one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pieces: tuple[Piece, ...] = ()
    sizes: dict[str, int] = {}
    nested: dict[str, str] = {}

    def shape(self, piece: Piece) -> tuple[int, ...]:
        """Lengths of a piece's axes, without its rows."""
        return tuple(self.sizes[axis] for axis in piece.axes)

    def space(self, rows: bool) -> TensorSpace:
        """The space of the pieces, as `{"0": …, "1": …}`; without rows they have channels only."""
        tensors: dict[str, tuple[str | int, ...]] = {
            str(k): (*piece.axes, piece.rows) if rows else piece.axes for k, piece in enumerate(self.pieces)
        }
        return TensorSpace(tensors, {name: Symmetric(n) for name, n in self.sizes.items()}, self.nested)


@dataclass(frozen=True)
class Places:
    """A layout with the places of its entries.

    Args:
        layout: the pieces.
        index: for every piece `[rows, *shape]`, positions among the parameter graph's edges.
    """

    layout: Layout
    index: tuple[Tensor, ...]


def layout_of(group: SymmetryGroup, structure: GraphStructure, ends: bool = False) -> Places:
    """The layout of an architecture.

    Args:
        group: its symmetry group.
        structure: its parameter graph, whose edges are the entries.
        ends: count inputs and outputs as neurons that may be exchanged, which they may not: layers over such a layout
            are smaller, and need positions of inputs and outputs as features.

    Raises:
        UserError: entries of some tensor move in a way that is no product of factors.
    """
    # also permutations that a linear factor contains, as those inside attention heads
    group = replace(group, factors=permutation_factors(group.structure, AxisMap(group.labelling)))
    found: dict[tuple[str, ...], list[Integers]] = {}
    sizes: dict[str, int] = {}
    start = 0
    for record in structure.records:
        entries = np.arange(start, start + record.edges).reshape(*record.shape, -1)
        columns, fixed = _coordinates(group, record.names[0], entries.shape)
        if ends:
            columns, fixed = _with_ends(structure, entries.ravel(), columns, fixed)
        start += record.edges
        for axes, grid in _pieces(record.names[0], columns, fixed):
            found.setdefault(axes, []).append(entries.ravel()[grid])
            sizes.update(zip(axes, grid.shape, strict=True))
    pieces = tuple(Piece(axes=axes, rows=len(grids)) for axes, grids in found.items())
    nested = {f.name: _parent(group, f) for f in _permutations(group) if f.parent >= 0 and f.name in sizes}
    layout = Layout(pieces=pieces, sizes=sizes, nested=nested)
    return Places(layout, tuple(torch.from_numpy(np.stack(grids)) for grids in found.values()))


def _permutations(group: SymmetryGroup) -> list[PermutationFactor]:
    return [factor for factor in group.factors if isinstance(factor, PermutationFactor)]


def _parent(group: SymmetryGroup, factor: PermutationFactor) -> str:
    return next(f.name for f in _permutations(group) if f.level == factor.parent)


def _coordinates(group: SymmetryGroup, name: str, shape: Sequence[int]) -> tuple[list[Column], list[Integers]]:
    """How every entry of a tensor is moved: places along factors; and what no factor moves."""
    columns: list[Column] = []
    fixed: list[Integers] = []
    own = np.indices(shape).reshape(len(shape), -1)
    for dim, axis in enumerate([*group.pooling_axes(name), None]):
        if axis is None:
            fixed.append(own[dim])
            continue
        fixed.append(_spread(axis.slot, dim, shape))
        for k, factor in enumerate(axis.factors):
            columns += _by_copy(group, axis, factor, k, dim, shape)
    return columns, fixed


def _by_copy(
    group: SymmetryGroup, axis: PoolingAxis, factor: str, k: int, dim: int, shape: Sequence[int]
) -> list[Column]:
    """One column for a factor; one a copy where copies are told apart by no other factor."""
    place, copy = (_spread(part[..., k], dim, shape) for part in (axis.block, axis.copy))
    found = group[factor]
    assert isinstance(found, PermutationFactor)
    copies = len(found.identity())
    if found.parent >= 0 or copies == 1:
        return [(factor, place)]
    return [(f"{factor} #{c}", np.where(copy == c, place, -1)) for c in range(copies) if (copy == c).any()]


def _spread(array: Any, dim: int, shape: Sequence[int]) -> Integers:
    """An array along one dimension, or over all but the last, as one number an entry."""
    along = [-1 if d == dim else 1 for d in range(len(shape))]
    array = array.reshape(along) if array.ndim == 1 else array[..., None]
    return np.ascontiguousarray(np.broadcast_to(array, shape)).reshape(-1)


def _with_ends(
    structure: GraphStructure, entries: Integers, columns: list[Column], fixed: list[Integers]
) -> tuple[list[Column], list[Integers]]:
    """Inputs and outputs as two more factors; they replace the dimensions that number them."""
    for name, (end, kinds) in ENDS.items():
        nodes = structure.edge["edge_index"][end].numpy()[entries]
        chosen = np.isin(structure.node["node_kind"].numpy()[nodes], [NODE_KINDS.index(kind) for kind in kinds])
        if not len(entries) or not chosen.all():
            continue
        places = np.unique(nodes, return_inverse=True)[1].ravel()
        same = [k for k, column in enumerate(fixed) if len(np.unique(places * (column.max() + 1) + column)) == len(np.unique(column)) == places.max() + 1]  # fmt: skip
        if same:
            fixed = [np.zeros_like(column) if k in same else column for k, column in enumerate(fixed)]
            columns = [*columns, (name, places)]
    return columns, fixed


def _pieces(name: str, columns: list[Column], fixed: list[Integers]) -> list[tuple[tuple[str, ...], Integers]]:
    """Entries by what no factor moves; each set as a grid over the factors that move it."""
    moved = np.stack([np.zeros_like(fixed[0]), *(place >= 0 for _, place in columns)])
    key = np.concatenate([np.stack(fixed), moved])
    _, which = np.unique(key, axis=1, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    bounds = np.flatnonzero(np.diff(which.ravel()[order])) + 1
    found = []
    for entries in np.split(order, bounds) if len(order) else []:
        used: list[Column] = []
        for factor, place in columns:
            own = place[entries]
            if own[0] >= 0 and not any(factor == other and (own == seen).all() for other, seen in used):
                used.append((factor, own))
        shape = tuple(int(own.max()) + 1 for _, own in used)
        flat = np.ravel_multi_index(tuple(own for _, own in used), shape) if used else np.zeros(len(entries), np.int64)
        if len(entries) != np.prod(shape, dtype=int) or len(np.unique(flat)) != len(entries):
            raise UserError(
                f"tensor {name!r}: entries moved by {', '.join(factor for factor, _ in used) or 'nothing'} fill no grid, so "
                f"weight-space layers cannot read this architecture; train graph_metanet.", 2)  # fmt: skip
        found.append((tuple(factor for factor, _ in used), entries[np.argsort(flat)].reshape(shape)))
    return found


def rows_of(values: Tensor, index: Tensor) -> Tensor:
    """Edge values `[E, M]` as a piece `[M, *shape, rows]`."""
    return values[index.flatten()].unflatten(0, index.shape).movedim((-1, 0), (0, -1))
