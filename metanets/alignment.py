"""Weight matching of many pairs of models at once: the order of one model's neurons that is nearest to another's weights.

Git Re-Basin: Merging Models modulo Permutation Symmetries (Ainsworth, Hayase and Srinivasa, 2023): coordinate descent over the
permutation factors, maximising ⟨v_1, π(v_2)⟩; with the others held, the best order under one factor is a linear assignment
of the similarities S_ij = ⟨v_1 at i, v_2 at j⟩. Factors and axes come from the layout of the group, so heads, packed gates
and merged dimensions need nothing of their own. An assignment is kept only where it brings the models closer: where a
factor stands twice in one tensor (recurrent weights), the assignment is but a linearisation.
"""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from metanets.batching import Topology
from metanets.layout import Layout, Piece, Places, layout_of, rows_of

SWEEPS = 4


@cache
def places(topology: Topology) -> Places:
    """The layout of an architecture; raises `UserError` where it has none."""
    return layout_of(*topology.symmetry)


def aligned(topology: Topology, reference: Tensor, moving: Tensor, sweeps: int = SWEEPS) -> Tensor:
    """The moving models with their neurons in the order that fits the references.

    Args:
        topology: of their architecture.
        reference: `[E, M]` edge values.
        moving: `[E, M]`, the other model of every pair.
        sweeps: of the coordinate descent.

    Returns:
        `[E, M]` edge values of the same functions.
    """
    found = places(topology)
    fixed, pieces = ([rows_of(values, index) for index in found.index] for values in (reference, moving))
    for _ in range(sweeps):
        changed = False
        for axis in found.layout.sizes:
            order = _assignment(found.layout, axis, fixed, pieces)
            moved = [
                _ordered(found.layout, p, axis, order, x) for p, x in zip(found.layout.pieces, pieces, strict=True)
            ]
            better = _inner(fixed, moved) > _inner(fixed, pieces) + 1e-9 * _inner(fixed, fixed)
            changed |= bool(better.any())
            pieces = [
                torch.where(better.reshape(-1, *[1] * (x.ndim - 1)), y, x) for x, y in zip(pieces, moved, strict=True)
            ]
        if not changed:
            break
    return _written(found, pieces, moving)


def reordered(topology: Topology, orders: Mapping[str, Tensor], values: Tensor) -> Tensor:
    """Models with their neurons in other orders, soft or hard: place i becomes Σ_j P_ij x_j.

    Args:
        topology: of their architecture, without neurons inside blocks.
        orders: P by axis, `{axis: [M, size, size]}`; axes that are missing stay.
        values: `[E, M]`.
    """
    found, pieces = places(topology), []
    for piece, index in zip(found.layout.pieces, found.index, strict=True):
        x = rows_of(values, index)
        for place, axis in enumerate(piece.axes):
            if axis in orders:
                along = x.movedim(place + 1, 1)
                x = (orders[axis] @ along.flatten(2)).view(along.shape).movedim(1, place + 1)
        pieces.append(x)
    return _written(found, pieces, values)


def assignment(scores: Tensor) -> Tensor:
    """For every row the column of the permutation with the largest sum of scores, `[..., n]` from `[..., n, n]` (Hungarian)."""
    tables = scores.detach().double().flatten(0, -3).numpy()
    orders = np.stack([linear_sum_assignment(table, maximize=True)[1] for table in tables])
    return torch.from_numpy(orders).view(scores.shape[:-1])


def assigned(scores: Tensor) -> Tensor:
    """The permutation matrices with the largest sums of scores, `[M, n, n]`."""
    return torch.nn.functional.one_hot(assignment(scores), scores.shape[-1]).to(scores.dtype)


def _written(found: Places, pieces: Sequence[Tensor], values: Tensor) -> Tensor:
    """Pieces as edge values `[E, M]`; what is in no piece stays."""
    result = values.clone()
    for index, piece in zip(found.index, pieces, strict=True):
        result[index.flatten()] = piece.movedim((0, -1), (-1, 0)).flatten(0, -2)
    return result


def _inner(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """⟨v_1, v_2⟩ of every pair, `[M]`."""
    return torch.stack([(a * b).flatten(1).sum(1) for a, b in zip(left, right, strict=True)]).sum(0)


def _parent(layout: Layout, piece: Piece, axis: str) -> int | None:
    """The place in a piece of the axis inside whose blocks another one moves by itself."""
    parent = layout.nested.get(axis)
    return piece.axes.index(parent) if parent in piece.axes else None


def _assignment(layout: Layout, axis: str, fixed: list[Tensor], pieces: list[Tensor]) -> Tensor:
    """Which old place comes to every new one, `[M, size]`, or `[M, parents, size]` inside blocks."""
    size, inside = layout.sizes[axis], axis in layout.nested
    parents = layout.sizes[layout.nested[axis]] if inside else 1
    similarity = fixed[0].new_zeros(len(fixed[0]), parents, size, size)
    for piece, a, b in zip(layout.pieces, fixed, pieces, strict=True):
        parent = _parent(layout, piece, axis)
        for place in (k for k, name in enumerate(piece.axes) if name == axis):
            x, y = (
                t.unsqueeze(1).movedim(place + 2, 2) if parent is None else t.movedim((parent + 1, place + 1), (1, 2))
                for t in (a, b)
            )
            similarity = similarity + x.flatten(3) @ y.flatten(3).mT  # [M, parents or 1, size, size]
    order = assignment(similarity)
    return order if inside else order[:, 0]


def _ordered(layout: Layout, piece: Piece, axis: str, order: Tensor, x: Tensor) -> Tensor:
    """A piece `[M, *shape, rows]` with one axis in another order."""
    parent = _parent(layout, piece, axis)
    for place in (k for k, name in enumerate(piece.axes) if name == axis):
        shape = [1] * x.ndim
        shape[0], shape[place + 1] = len(x), x.shape[place + 1]
        index = order
        if order.ndim == 3:
            assert parent is not None, "what moves inside a block moves with the block"
            shape[parent + 1] = x.shape[parent + 1]
            index = order if parent < place else order.mT
        x = x.gather(place + 1, index.reshape(shape).expand(x.shape))
    return x
