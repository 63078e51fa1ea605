"""Operators that move, merge, split and join dimensions."""

from typing import Any

import numpy as np

from graphs.program import Op
from graphs.scalings.system import Ids
from graphs.scalings.walk import Scale, ScaleWalk, rule


@rule("aten.permute")
def permute(walk: ScaleWalk, op: Op) -> None:
    """Dimensions in another order."""
    scale = walk.scale(op.arguments[0])
    walk.set(op, None if scale is None else [term.transpose(op.arguments[1]) for term in scale])


@rule("aten.view", "aten.reshape", "aten._unsafe_view")
def view(walk: ScaleWalk, op: Op) -> None:
    """Dimensions merged and split."""
    scale = walk.scale(op.arguments[0])
    old, new = walk.shape(op.arguments[0]), walk.program.values[op.output].shape
    walk.set(op, None if scale is None else [reshaped(term, old, new) for term in scale])


def reshaped(term: Ids, old: tuple[int, ...], new: tuple[int, ...]) -> Ids:
    """A term after a reshape of its value from shape `old` to shape `new`, as small as it can be."""
    full, shape, i, j = list(term.shape), list(new), 0, 0
    while i < len(old) or j < len(new):
        start, begin = i, j
        left, right = 1, 1
        while True:
            if left <= right and i < len(old):
                left, i = left * old[i], i + 1
            elif j < len(new):
                right, j = right * new[j], j + 1
            else:
                break
            if left == right and (left > 1 or (i == len(old) and j == len(new))):
                break
        if any(term.shape[d] > 1 for d in range(start, i)):
            full[start:i] = old[start:i]
        else:
            shape[begin:j] = [1] * (j - begin)
    opened = np.broadcast_to(term, full).reshape(shape)
    for axis in range(opened.ndim):  # do not depend on what does not matter
        first = np.take(opened, [0], axis)
        if opened.shape[axis] > 1 and (opened == first).all():
            opened = first
    return opened


@rule("aten.expand")
def expand(walk: ScaleWalk, op: Op) -> None:
    """Broadcasting."""
    shape = walk.program.values[op.output].shape
    walk.set(op, None if walk.scale(op.arguments[0]) is None else walk.lift(op.arguments[0], shape))


@rule("aten.unsqueeze")
def unsqueeze(walk: ScaleWalk, op: Op) -> None:
    """A new dimension."""
    scale = walk.scale(op.arguments[0])
    axis = op.arguments[1] % (len(walk.shape(op.arguments[0])) + 1)
    walk.set(op, None if scale is None else [np.expand_dims(term, axis) for term in scale])


@rule("aten.squeeze")
def squeeze(walk: ScaleWalk, op: Op) -> None:
    """Dimensions of size 1 removed."""
    scale, shape = walk.scale(op.arguments[0]), walk.shape(op.arguments[0])
    axes = op.argument(1, "dim", tuple(range(len(shape))))
    axes = (axes,) if isinstance(axes, int) else axes
    gone = tuple(axis % len(shape) for axis in axes if shape[axis] == 1)
    walk.set(op, None if scale is None else [term.squeeze(gone) for term in scale])


def taken(term: Ids, axis: int, index: Any) -> Ids:
    """A term at some indices of one dimension."""
    return term[(slice(None),) * axis + (index,)] if term.shape[axis] > 1 else term


def piece(walk: ScaleWalk, scale: Scale, axis: int, index: slice) -> Scale:
    """The scale of a range of one dimension; what is in it is not mixed with what is not."""
    if scale is None:
        return None
    parts = [taken(term, axis, index) for term in scale]
    if walk.mixes:
        cut = [part for part, term in zip(parts, scale, strict=True) if term.shape[axis] > 1]
        walk.contracted += [(part, tuple(d for d, size in enumerate(part.shape) if size > 1)) for part in cut]
    return parts


@rule("aten.slice")
def slice_(walk: ScaleWalk, op: Op) -> None:
    """A range of one dimension."""
    scale = walk.scale(op.arguments[0])
    axis = op.argument(1, "dim", 0) % len(walk.shape(op.arguments[0]))
    index = slice(op.argument(2, "start"), op.argument(3, "end"), op.argument(4, "step", 1))
    walk.set(op, piece(walk, scale, axis, index))


@rule("aten.select")
def select(walk: ScaleWalk, op: Op) -> None:
    """One index of a dimension."""
    scale, shape = walk.scale(op.arguments[0]), walk.shape(op.arguments[0])
    axis = op.arguments[1] % len(shape)
    index = op.arguments[2] % shape[axis]
    chosen = piece(walk, scale, axis, slice(index, index + 1))
    walk.set(op, None if chosen is None else [term.squeeze(axis) for term in chosen])


@rule("aten.split_with_sizes", "aten.split", "aten.unbind", "aten.chunk")
def split(walk: ScaleWalk, op: Op) -> None:
    """Several ranges of one dimension."""
    scale, shape = walk.scale(op.arguments[0]), walk.shape(op.arguments[0])
    single = op.name == "aten.unbind"
    axis = op.argument(1 if single else 2, "dim", 0) % len(shape)
    sizes = [1] * shape[axis] if single else op.arguments[1]
    if isinstance(sizes, int):
        sizes = [min(sizes, shape[axis] - at) for at in range(0, shape[axis], sizes)]
    end = 0
    for index, size in enumerate(sizes):
        end += size
        chosen = piece(walk, scale, axis, slice(end - size, end))
        if single and chosen is not None:
            chosen = [term.squeeze(axis) for term in chosen]
        walk.set(op, chosen, index)


@rule("aten.cat")
def cat(walk: ScaleWalk, op: Op) -> None:
    """Pieces side by side keep their own scales."""
    shape = walk.program.values[op.output].shape
    axis = op.argument(1, "dim", 0) % len(shape)
    pieces = [(walk.scale(t), walk.shape(t)[axis]) for t in op.arguments[0] if 0 not in walk.shape(t)]
    if all(scale is None for scale, _ in pieces):
        walk.set(op, None)
        return
    patterns = {
        tuple(size > 1 and d != axis for d, size in enumerate(term.shape))
        for scale, _ in pieces
        for term in scale or []
    }
    out = []
    for pattern in sorted(patterns):
        free = tuple(n if p else 1 for n, p in zip(shape, pattern, strict=True))
        parts = []
        for scale, size in pieces:
            full = tuple(size if d == axis else n for d, n in enumerate(free))
            own = [
                (1, np.broadcast_to(term, full)) for term in scale or []
                if tuple(n > 1 and d != axis for d, n in enumerate(term.shape)) == pattern
            ]  # fmt: skip
            if scale is None:
                parts.append(walk.system.fresh(full))
            else:
                parts.append(walk.system.combination(*own) if own else np.zeros(full, dtype=np.int64))
        joined = np.concatenate([np.asarray(part) for part in parts], axis)
        first = np.take(joined, [0], axis)
        out.append(first if (joined == first).all() else joined)
    walk.set(op, out)


@rule("aten.flip", "aten.roll", "aten.repeat")
def rearrange(walk: ScaleWalk, op: Op) -> None:
    """Entries in another order, or several times: index arrays tell where each came from."""
    scale, shape = walk.scale(op.arguments[0]), walk.shape(op.arguments[0])
    if scale is None:
        walk.set(op, None)
        return
    new = walk.program.values[op.output].shape
    lifted = [term.reshape((1,) * (len(new) - len(shape)) + term.shape) for term in scale]
    shape = (1,) * (len(new) - len(shape)) + shape
    orders = [np.arange(size) for size in shape]
    if op.name == "aten.flip":
        for axis in op.arguments[1]:
            orders[axis] = orders[axis][::-1]
    elif op.name == "aten.repeat":
        orders = [np.tile(order, times) for order, times in zip(orders, op.arguments[1], strict=True)]
    else:
        for shift, axis in zip(op.arguments[1], op.argument(2, "dims", ()), strict=True):
            orders[axis] = np.roll(orders[axis], shift)
    for axis, order in enumerate(orders):
        lifted = [taken(term, axis, order) for term in lifted]
    walk.set(op, lifted)


@rule("aten.constant_pad_nd")
def constant_pad(walk: ScaleWalk, op: Op) -> None:
    """Zeros around a value: the scale must not depend on the padded dimensions."""
    old, new = walk.shape(op.arguments[0]), walk.program.values[op.output].shape
    terms = walk.terms(op.arguments[0])
    if op.argument(2, "value", 0):
        walk.forbid(terms)
        terms = []
    padded = [d for d, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    walk.set(op, None if walk.scale(op.arguments[0]) is None else walk.forbid_along(terms, padded))


@rule("aten.full", "aten.full_like", "aten.zeros", "aten.zeros_like", "aten.new_zeros", "aten.new_full", "aten.empty")
def filled(walk: ScaleWalk, op: Op) -> None:
    """One number everywhere; zeros agree with any scale."""
    zero = "zeros" in op.name or (op.name.startswith(("aten.full", "aten.new_full")) and op.arguments[-1] == 0)
    walk.set(op, None if zero else [])
