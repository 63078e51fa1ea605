"""Lookup, gather and scatter by constant or computed indices."""

from collections.abc import Sequence

import numpy as np
import torch

from graphs.algebra import Array, Labels
from graphs.labels import Walk
from graphs.program import Op, Reference
from graphs.rules import rule
from graphs.rules.pointwise import LETTERS, broadcast
from graphs.rules.shape import pin


def take_repeated(walk: Walk, labels: Labels, axis: int, indices: Array) -> Labels:
    """Labels at constant indices of a dimension; an index met again gives copies of its labels."""
    own = labels[axis]
    taken = [array if array is None or array.shape[axis] == 1 else array.take(indices, axis) for array in labels]
    values, counts = np.unique(indices, return_counts=True)
    if own is not None and len(values) < len(indices):
        if own.size == own.shape[axis] and walk.algebra.pinned(own).all():
            taken[axis] = walk.algebra.positions(len(indices), axis, len(labels), "gathered position")
        else:
            order = np.argsort(indices, kind="stable")
            starts = np.cumsum(counts) - counts
            repeat = np.empty(len(indices), np.int64)
            repeat[order] = np.arange(len(indices)) - np.repeat(starts, counts)
            shape = [len(indices) if k == axis else 1 for k in range(own.ndim)]
            gathered = own.take(indices, axis)
            taken[axis] = walk.algebra.copies(gathered, np.broadcast_to(repeat.reshape(shape), gathered.shape))
    return tuple(taken)


def lookup(walk: Walk, labels: Labels, shape: Sequence[int], axis: int, index: torch.Tensor) -> Labels:
    """Labels of `x[..., index, ...]` for a constant index of any rank."""
    flat = index.reshape(-1).numpy().astype(np.int64) % max(shape[axis], 1)
    taken = take_repeated(walk, labels, axis, flat)
    before = (*shape[:axis], len(flat), *shape[axis + 1 :])
    return walk.algebra.reshape(taken, before, (*shape[:axis], *index.shape, *shape[axis + 1 :]))


@rule("aten.embedding")
def embedding(walk: Walk, op: Op) -> Labels:
    """Look up rows: by constant indices they keep their labels, by computed ones they are fixed."""
    algebra, weight = walk.algebra, walk.labels(op.arguments[0])
    index = walk.constant(op.arguments[1])
    if index is not None:
        return lookup(walk, weight, walk.shape(op.arguments[0]), 0, index)
    where = walk.labels(op.arguments[1])
    pin(walk, weight, "token", [0])
    letters = LETTERS[: len(where)]
    return algebra.contract([(where, letters), (weight, "yz")], letters + "z")


@rule("aten.index_select")
def index_select(walk: Walk, op: Op) -> Labels:
    """Rows by an index list."""
    x, axis, index = op.arguments[0], op.arguments[1], op.arguments[2]
    return _indexed(walk, op, x, [None] * (axis % len(walk.shape(x))) + [index])


@rule("aten.index", "aten._unsafe_index")
def index(walk: Walk, op: Op) -> Labels:
    """Advanced indexing: a constant index keeps labels, a computed one fixes the dimension."""
    return _indexed(walk, op, op.arguments[0], list(op.arguments[1]))


def _indexed(walk: Walk, op: Op, x: Reference, indices: list[Reference | None]) -> Labels:
    algebra, labels, shape = walk.algebra, walk.labels(x), walk.shape(x)
    axes = [k for k, entry in enumerate(indices) if entry is not None]
    tensors = [entry for entry in indices if entry is not None]
    constants = [walk.constant(entry) for entry in tensors]
    if len(axes) == 1 and constants[0] is not None and constants[0].dtype is not torch.bool:
        return lookup(walk, labels, shape, axes[0], constants[0])
    dtypes = [walk.program.values[entry.value].dtype for entry in tensors]
    if torch.bool in dtypes:
        pin(walk, labels, "masked index")
        return algebra.all_positions(walk.out_shape(op), "masked index")
    pin(walk, labels, "indexed", axes)
    rest = algebra.reduce(labels, axes, keep=False)
    where = broadcast(walk, [walk.labels(entry) for entry in tensors])
    start = axes[0] if axes[-1] - axes[0] == len(axes) - 1 else 0
    names, new = LETTERS[: len(rest)], LETTERS[len(rest) : len(rest) + len(where)]
    return algebra.contract([(rest, names), (where, new)], names[:start] + new + names[start:])


@rule("aten.gather")
def gather(walk: Walk, op: Op) -> Labels:
    """Pick along a dimension by a full index: that dimension is fixed, the others are tied to the index."""
    x, index = walk.labels(op.arguments[0]), walk.labels(op.arguments[2])
    axis = op.arguments[1] % len(x)
    return _paired(walk, op, [(x, op.arguments[0]), (index, op.arguments[2])], axis, index[axis])


@rule(
    "aten.scatter", "aten.scatter_add", "aten.scatter_reduce", "aten.index_add", "aten.index_copy", "aten.index_fill",
    "aten.index_reduce",
)  # fmt: skip
def scatter(walk: Walk, op: Op) -> Labels:
    """Write or add along a dimension by an index: that dimension is fixed, the others are tied."""
    axis = op.arguments[1] % len(walk.shape(op.arguments[0]))
    full = op.name.startswith("aten.scatter")
    operands = [op.arguments[0], *(entry for entry in op.arguments[2 if full else 3 :] if isinstance(entry, Reference))]
    operands = [entry for entry in operands if len(walk.shape(entry)) == len(walk.shape(op.arguments[0]))]
    if not full:
        pin(walk, walk.labels(op.arguments[2]), "index")
    size = walk.out_shape(op)[axis]
    place = walk.algebra.positions(size, axis, len(walk.out_shape(op)), "scattered position")
    return _paired(walk, op, [(walk.labels(entry), entry) for entry in operands], axis, place)


def _paired(walk: Walk, op: Op, operands: Sequence[tuple[Labels, Reference]], axis: int, place: Array | None) -> Labels:
    """Tie all dimensions but one, which is fixed; a dimension of which only a part is used is fixed too."""
    algebra, rank = walk.algebra, len(walk.out_shape(op))
    fixed = {axis}
    for k in range(rank):
        if len({walk.shape(reference)[k] for _, reference in operands}) > 1:
            fixed.add(k)
    reduced = []
    for labels, _ in operands:
        pin(walk, labels, op.name, sorted(fixed))
        reduced.append(algebra.reduce(labels, sorted(fixed), keep=True))
    out = list(broadcast(walk, reduced))
    for k in fixed - {axis}:
        out[k] = algebra.positions(walk.out_shape(op)[k], k, rank, "position")
    out[axis] = algebra.positions(walk.out_shape(op)[axis], axis, rank, "position") if place is None else place
    if place is not None:
        algebra.pin(place, axis, op.name)
    return tuple(out)


@rule("aten.index_put", "aten._unsafe_index_put", "aten.index_put_")
def index_put(walk: Walk, op: Op) -> Labels:
    """Write or add at indices: indexed dimensions are fixed, the others tied to the values."""
    algebra, x, values = walk.algebra, walk.labels(op.arguments[0]), walk.labels(op.arguments[2])
    shape = walk.shape(op.arguments[0])
    indices = list(op.arguments[1])
    axes = [k for k, entry in enumerate(indices) if entry is not None]
    tensors = [entry for entry in indices if entry is not None]
    consecutive = axes[-1] - axes[0] == len(axes) - 1
    if torch.bool in [walk.program.values[entry.value].dtype for entry in tensors] or not consecutive:
        pin(walk, x, op.name)
        pin(walk, values, op.name)
        return algebra.all_positions(shape, "position")
    pin(walk, x, op.name, axes)
    count = max(len(walk.shape(entry)) for entry in tensors)
    rest = [k for k in range(len(shape)) if k not in axes]
    letters = {k: LETTERS[k] for k in rest}
    new = LETTERS[len(shape) : len(shape) + count]
    spec = "".join(letters[k] for k in rest if k < axes[0]) + new + "".join(letters[k] for k in rest if k > axes[0])
    spec = spec[len(spec) - len(values) :]
    for entry in tensors:
        pin(walk, walk.labels(entry), "index")
    pin(walk, values, op.name, [k for k, letter in enumerate(spec) if letter in new])
    kept = algebra.reduce(x, axes, keep=True)
    names = "".join(LETTERS[len(shape) + count + k] if k in axes else letters[k] for k in range(len(shape)))
    out = algebra.contract([(kept, names), (values, spec)], names)
    return tuple(
        algebra.positions(shape[k], k, len(shape), "position") if k in axes else out[k] for k in range(len(shape))
    )
