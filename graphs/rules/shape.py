"""Operators that move, split, merge or cut dimensions: NumPy indexing on label arrays."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from graphs.algebra import Algebra, Array, Labels, compress
from graphs.labels import Walk
from graphs.program import Op
from graphs.rules import rule

LARGEST = 1_000_000  # entries of a label array of joined pieces; beyond, the pieces are tied


def take(labels: Labels, axis: int, indices: Sequence[int] | Array) -> Labels:
    """Labels at some indices of a dimension, none of them twice."""
    return tuple(
        array if array is None or array.shape[axis] == 1 else array.take(np.asarray(indices, np.int64), axis)
        for array in labels
    )


def drop(labels: Labels, axis: int) -> Labels:
    """Labels without a dimension on which nothing depends any more."""
    return tuple(None if array is None else np.take(array, 0, axis) for k, array in enumerate(labels) if k != axis)


@rule("aten.view", "aten.reshape", "aten._unsafe_view", "aten.unsqueeze", "aten.squeeze", "aten.flatten")
def reshape(walk: Walk, op: Op) -> Labels:
    """A row-major reshape: merge and split dimensions."""
    labels = walk.labels(op.arguments[0])
    return walk.algebra.reshape(labels, walk.shape(op.arguments[0]), walk.out_shape(op))


@rule("aten.permute")
def permute(walk: Walk, op: Op) -> Labels:
    """Reorder dimensions, labels along with them."""
    labels, order = walk.labels(op.arguments[0]), [int(k) for k in op.arguments[1]]
    order = [k % len(labels) for k in order]
    return tuple(None if (array := labels[k]) is None else array.transpose(order) for k in order)


@rule("aten.transpose", "aten.t")
def transpose(walk: Walk, op: Op) -> Labels:
    """Swap two dimensions."""
    labels = walk.labels(op.arguments[0])
    order = list(range(len(labels)))
    if len(order) > 1:
        i, j = (op.arguments[1], op.arguments[2]) if op.name == "aten.transpose" else (0, 1)
        order[i], order[j] = order[j], order[i]
    return tuple(None if (array := labels[k]) is None else array.transpose(order) for k in order)


@rule("aten.expand")
def expand(walk: Walk, op: Op) -> Labels:
    """Broadcast: new and repeated dimensions are free."""
    labels, rank = walk.labels(op.arguments[0]), len(walk.out_shape(op))
    new = rank - len(labels)
    grown = (None if array is None else array.reshape((1,) * new + array.shape) for array in labels)
    return (None,) * new + tuple(grown)


@rule("aten.repeat")
def repeat(walk: Walk, op: Op) -> Labels:
    """Tile: a free dimension in front of every tiled one, merged with it."""
    shape = walk.shape(op.arguments[0])
    times = [int(k) for k in op.arguments[1]]
    labels, sizes = walk.labels(op.arguments[0]), [1] * (len(times) - len(shape)) + list(shape)
    labels = walk.algebra.reshape(labels, shape, sizes)
    for axis, (count, size) in enumerate(zip(times, sizes, strict=True)):
        if count > 1:
            merged = walk.algebra.merge([None, inserted(labels[axis], axis)], axis, [count, size])
            others = [tile(array, axis, count) for array in labels]
            labels = (*others[:axis], merged, *others[axis + 1 :])
    return labels


def inserted(array: Array | None, axis: int) -> Array | None:
    """A label array with a new axis of size 1."""
    return None if array is None else np.expand_dims(array, axis)


def tile(array: Array | None, axis: int, count: int) -> Array | None:
    """A label array repeated along an axis it depends on."""
    if array is None or array.shape[axis] == 1:
        return array
    return np.concatenate([array] * count, axis)


@rule("aten.slice")
def slice_(walk: Walk, op: Op) -> Labels:
    """A range of a dimension: the labels in that range."""
    labels = walk.labels(op.arguments[0])
    axis = op.argument(1, "dim", 0) % len(labels)
    size = walk.shape(op.arguments[0])[axis]
    chosen = range(size)[slice(op.argument(2, "start"), op.argument(3, "end"), op.argument(4, "step", 1))]
    part = take(labels, axis, chosen)
    if len(chosen) < size:
        walk.algebra.mark(part[axis])
    return part


@rule("aten.select")
def select(walk: Walk, op: Op) -> Labels:
    """One index of a dimension: that index is fixed, the rest goes."""
    labels, index = walk.labels(op.arguments[0]), op.arguments[2]
    axis = op.arguments[1] % len(labels)
    index = index % walk.shape(op.arguments[0])[axis]
    chosen = take(labels, axis, [index])
    walk.algebra.mark(chosen[axis])
    return drop(chosen, axis)


@rule("aten.split", "aten.split_with_sizes", "aten.unbind", "aten.chunk", "aten.unsafe_split")
def split(walk: Walk, op: Op) -> list[Labels | None]:
    """Consecutive ranges of a dimension."""
    labels = walk.labels(op.arguments[0])
    if op.name == "aten.unbind":
        axis = op.argument(1, "dim", 0) % len(labels)
        pieces: list[Labels | None] = []
        for index in range(len(op.outputs)):
            chosen = take(labels, axis, [index])
            walk.algebra.mark(chosen[axis])
            pieces.append(drop(chosen, axis))
        return pieces
    axis = op.argument(2, "dim", 0) % len(labels)
    size, sizes = walk.shape(op.arguments[0])[axis], op.arguments[1]
    if isinstance(sizes, int):
        sizes = [min(sizes, size - start) for start in range(0, size, sizes)]
    starts = np.cumsum([0, *sizes])
    parts = [take(labels, axis, range(a, b)) for a, b in pairwise(starts)]
    for part in parts:  # unused pieces too: their labels stay in their own piece
        walk.algebra.mark(part[axis])
    return list(parts)


@rule("aten.flip")
def flip(walk: Walk, op: Op) -> Labels:
    """Reverse some dimensions."""
    labels = walk.labels(op.arguments[0])
    for axis in op.arguments[1]:
        labels = take(labels, axis % len(labels), range(walk.shape(op.arguments[0])[axis] - 1, -1, -1))
    return labels


@rule("aten.roll")
def roll(walk: Walk, op: Op) -> Labels:
    """Rotate some dimensions."""
    labels, shape = walk.labels(op.arguments[0]), walk.shape(op.arguments[0])
    shifts, axes = op.arguments[1], op.argument(2, "dims", ())
    if not axes:
        pin(walk, labels, "roll")
        return walk.algebra.all_positions(shape, "rolled")
    for shift, axis in zip(shifts, axes, strict=True):
        labels = take(labels, axis % len(labels), np.roll(np.arange(shape[axis]), shift))
    return labels


def pin(walk: Walk, labels: Labels, why: str, axes: Sequence[int] | None = None) -> None:
    """Pin some dimensions (all by default)."""
    for axis in range(len(labels)) if axes is None else axes:
        walk.algebra.pin(labels[axis], axis, why)


@rule("aten.cat", "aten.concat")
def cat(walk: Walk, op: Op) -> Labels:
    """Concatenate: every piece keeps its labels, and in the other dimensions those that move are its own, too."""
    pieces = [piece for piece in op.arguments[0] if walk.shape(piece) != (0,)]
    rank = len(walk.out_shape(op))
    axis = op.argument(1, "dim", 0) % rank
    return concatenate(
        walk.algebra, [walk.labels(piece) for piece in pieces], [walk.shape(piece)[axis] for piece in pieces], axis
    )


def concatenate(algebra: Algebra, pieces: Sequence[Labels], sizes: Sequence[int], axis: int) -> Labels:
    """Labels of pieces of given sizes joined along a dimension."""
    rank = len(pieces[0])
    if len(pieces) == 1:
        return pieces[0]
    total = int(sum(sizes))
    result: list[Array | None] = []
    stacked = all(size == 1 for size in sizes)
    for k in range(rank):
        if k == axis:
            result.append(_joined(algebra, [piece[axis] for piece in pieces], sizes, axis, rank))
            continue
        arrays = [piece[k] for piece in pieces]
        known = [array for array in arrays if array is not None]
        same = all(array is known[0] or np.array_equal(array, known[0]) for array in known)
        if not known or (same and known[0].shape[axis] == 1):
            result.append(known[0] if known else None)
            continue
        moving = stacked or not all(algebra.pinned(array).all() for array in known)
        if moving and total * max(array.size for array in known) <= LARGEST:
            result.append(_fibred(algebra, arrays, sizes, axis))
        else:
            flat = [array for array in (algebra.collapse(array, [axis]) for array in known) if array is not None]
            result.append(algebra.tied(flat, k))
    return tuple(result)


def _joined(algebra: Algebra, arrays: Sequence[Array | None], sizes: Sequence[int], axis: int, rank: int) -> Array:
    """Labels of the joined dimension itself; a label that is already there comes as a copy."""
    seen: set[int] = set()
    parts = []
    for array, size in zip(arrays, sizes, strict=True):
        if array is None:
            array = algebra.fresh(*(size if k == axis else 1 for k in range(rank)))
        names = set(array.ravel().tolist())
        if names & seen:
            array = algebra.copies(array, np.zeros(array.shape, np.int64))
        seen |= names
        algebra.mark(array)
        parts.append(array)
    shape = np.broadcast_shapes(*(tuple(1 if k == axis else n for k, n in enumerate(p.shape)) for p in parts))
    full = [np.broadcast_to(p, [p.shape[k] if k == axis else n for k, n in enumerate(shape)]) for p in parts]
    return np.concatenate(full, axis)


def _fibred(algebra: Algebra, arrays: Sequence[Array | None], sizes: Sequence[int], axis: int) -> Array:
    """Labels of another dimension of joined pieces: each piece its own, so that they may move differently."""
    shape = np.broadcast_shapes(
        *(tuple(1 if k == axis else n for k, n in enumerate(array.shape)) for array in arrays if array is not None)
    )
    parts = []
    for array, size in zip(arrays, sizes, strict=True):
        # what is constant along this dimension may move in any way: it is named per place
        own = algebra.fresh(*shape) if array is None else algebra.copies(array, np.zeros(array.shape, np.int64))
        algebra.mark(own)
        parts.append(np.broadcast_to(own, [size if k == axis else n for k, n in enumerate(shape)]))
    return compress(np.concatenate(parts, axis))


@rule("aten.constant_pad_nd")
def pad(walk: Walk, op: Op) -> Labels:
    """Pad with one number: padded places get labels of their own (fixed where the dimension is fixed)."""
    algebra, labels = walk.algebra, walk.labels(op.arguments[0])
    rank, widths = len(labels), op.arguments[1]
    for k in range(len(widths) // 2):
        axis, before, after = rank - 1 - k, widths[2 * k], widths[2 * k + 1]
        size = walk.shape(op.arguments[0])[axis]
        if min(before, after) < 0:
            labels = take(labels, axis, range(max(0, -before), size - max(0, -after)))
            size, before, after = size - max(0, -before) - max(0, -after), max(0, before), max(0, after)
        if before == after == 0:
            continue
        flat = tuple(array if j == axis else algebra.collapse(array, [axis]) for j, array in enumerate(labels))
        own = flat[axis]
        if own is None or (own.size == own.shape[axis] and algebra.pinned(own).all()):
            grown = algebra.positions(before + size + after, axis, rank, "padded position")
        else:
            ends = [(None, before), (own, size), (None, after)]
            kept = [(array, n) for array, n in ends if n]
            grown = _joined(algebra, [array for array, _ in kept], [n for _, n in kept], axis, rank)
        labels = (*flat[:axis], grown, *flat[axis + 1 :])
    return labels


@rule("aten.slice_scatter", "aten.select_scatter")
def scatter_slice(walk: Walk, op: Op) -> Labels:
    """Overwrite a range: the labels of the old and the new pieces side by side."""
    algebra = walk.algebra
    labels, source = walk.labels(op.arguments[0]), walk.labels(op.arguments[1])
    axis = op.argument(2, "dim", 0) % len(labels)
    size = walk.shape(op.arguments[0])[axis]
    if op.name == "aten.select_scatter":
        index = op.arguments[3] % size
        chosen = range(index, index + 1)
        grown = [inserted(array, axis) for array in source]
        source = (*grown[:axis], None, *grown[axis:])
    else:
        chosen = range(size)[slice(op.argument(3, "start"), op.argument(4, "end"), op.argument(5, "step", 1))]
    result: list[Array | None] = []
    for k in range(len(labels)):
        old, new = labels[k], source[k]
        if k != axis:
            old, new = algebra.collapse(old, [axis]), algebra.collapse(new, [axis])
            algebra.unify(old, new)
            result.append(new if old is None else old)
            continue
        plain = [array for array in (old, new) if array is not None]
        if all(array.size == array.shape[axis] and algebra.pinned(array).all() for array in plain):
            result.append(algebra.positions(size, axis, len(labels), "overwritten position"))
            continue
        rest = [index for index in range(size) if index not in chosen]
        kept = None if old is None else old.take(rest, axis)
        order = np.argsort([*chosen, *rest], kind="stable")
        pieces = [(array, n) for array, n in ((new, len(chosen)), (kept, len(rest))) if n]
        joined = _joined(algebra, [array for array, _ in pieces], [n for _, n in pieces], axis, len(labels))
        result.append(joined.take(order, axis))
    return tuple(result)


@rule("aten.unfold")
def unfold(walk: Walk, op: Op) -> Labels:
    """Sliding windows: the dimension and the place in the window are fixed."""
    algebra = walk.algebra
    labels, (axis, size) = walk.labels(op.arguments[0]), op.arguments[1:3]
    axis %= len(labels)
    algebra.pin(labels[axis], axis, "window")
    out, rank = walk.out_shape(op), len(labels) + 1
    flat = [None if (a := algebra.collapse(array, [axis])) is None else a[..., None] for array in labels]
    flat[axis] = algebra.positions(out[axis], axis, rank, "window")
    return (*flat, algebra.positions(size, rank - 1, rank, "place in window"))


@rule("aten.diagonal")
def diagonal(walk: Walk, op: Op) -> Labels:
    """A diagonal: both dimensions are fixed."""
    algebra, labels = walk.algebra, walk.labels(op.arguments[0])
    axes = [op.argument(2, "dim1", 0) % len(labels), op.argument(3, "dim2", 1) % len(labels)]
    pin(walk, labels, "diagonal", axes)
    rest = [None if array is None else array[..., None] for array in algebra.reduce(labels, axes, keep=False)]
    rank = len(rest) + 1
    return (*rest, algebra.positions(walk.out_shape(op)[-1], rank - 1, rank, "diagonal"))
