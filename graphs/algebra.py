"""The neuron-label algebra: label arrays for the dimensions of tensors, and the relations that ops put between them.

A tensor's dimension carries an integer array with one *label* per index, of the tensor's rank and of size 1 along every
dimension that the labels do not depend on; `None` says that the tensor is constant along that dimension. A symmetry
is a permutation σ of the labels that keeps three kinds of facts:

* *marks*: which labels occur in which dimension of which value;
* *ties*: pairs of labels that must move together (aligned by an addition, a contraction, …);
* *parts*: a label that stands for an index of a merged dimension and its coordinates' labels (CHW → (C, H, W)).

Every rule keeps one invariant. Let σ send index i of value X to i', where i'_k is the coordinate of σ(L_k[i]) in
dimension k (any bijection where L_k is None). Then L_k[i'] = σ(L_k[i]) for all k, and X computed from the permuted
parameters has at i' what X had at i. *Pinned* labels are fixed by every σ.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from graphs.columns import count_columns, packed

Array = NDArray[np.signedinteger]  # labels are of 32 bits
Labels = tuple[Array | None, ...]


def compress(array: Array) -> Array:
    """Drop every dependence that is none: size 1 along axes on which the labels are constant."""
    for axis in range(array.ndim):
        if array.shape[axis] > 1:
            first = array.take([0], axis)
            if (array == first).all():
                array = first
    return array


class Decomposition:
    """The rows of labels that split into coordinates of given sizes: whole → parts (−1: the coordinate is free).

    Args:
        sizes: radices of the mixed-radix coordinate, most significant first.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes
        self.wholes = np.empty(0, np.int32)
        self.parts = np.empty((0, len(sizes)), np.int32)  # codes below -1 are free coordinates: -2 - coordinate
        self.free = False  # whether some part is
        self._order: Array | None = None  # that sorts the wholes

    def rows(self, labels: Array) -> Array:
        """Row number of every label, −1 where it has none."""
        if not len(self.wholes):
            return np.full(labels.shape, -1, np.int64)
        if self._order is None:
            self._order = np.argsort(self.wholes)
        row = self._order[np.searchsorted(self.wholes, labels, sorter=self._order).clip(max=len(self.wholes) - 1)]
        return np.where(self.wholes[row] == labels, row, -1)

    def add(self, wholes: Array, parts: Array) -> None:
        """Append rows for labels that have none yet."""
        self.wholes = np.concatenate([self.wholes, wholes])
        self.parts = np.concatenate([self.parts, parts])
        self.free |= bool((parts < 0).any())
        self._order = None

    def find(self, parts: Array) -> Array:
        """The whole of every row of parts, −1 where there is none yet."""
        if not len(self.wholes):
            return np.full(len(parts), -1, np.int64)
        keys = packed(np.concatenate([self.parts, parts]).T)
        known, wanted = keys[: len(self.parts)], keys[len(self.parts) :]
        order = np.argsort(known, kind="stable")
        place = np.searchsorted(known, wanted, side="right", sorter=order) - 1
        row = order[place]  # a place of -1 is one too low for all, so that the last row does not match either
        return np.where(known[row] == wanted, self.wholes[row], -1)


class Algebra:
    """Fresh labels and the relations among them, recorded array by array."""

    def __init__(self) -> None:
        self.count = 0
        self.same: list[tuple[Array, Array, int]] = []  # tied labels, with the tag of the call that tied them
        self.marks: list[tuple[Array, int]] = []
        self.pins: list[tuple[Array, str]] = []
        self.decompositions: dict[tuple[int, ...], Decomposition] = {}
        self._pinned = np.zeros(0, bool)
        self._marked: dict[int, Array] = {}
        self._tags = 0
        self.origin: list[int] = []  # of every tag, the op at work
        self.now = -1

    # -- labels ------------------------------------------------------------------------------------------------------

    def tag(self) -> int:
        """A new tag: one per call that relates labels."""
        self._tags += 1
        self.origin.append(self.now)
        return self._tags - 1

    def fresh(self, *shape: int) -> Array:
        """An array of labels that were never used before."""
        size = prod(shape)
        self.count += size
        return np.arange(self.count - size, self.count, dtype=np.int32).reshape(shape)

    def pinned(self, labels: Array) -> NDArray[np.bool_]:
        """Which labels are pinned directly."""
        found = np.zeros(labels.shape, bool)
        known = labels < len(self._pinned)
        found[known] = self._pinned[labels[known]]
        return found

    def positions(self, size: int, axis: int, rank: int, why: str) -> Array | None:
        """Fresh pinned labels along one axis, None for an axis of size 1."""
        if size == 1:
            return None
        labels = self.fresh(*(size if k == axis else 1 for k in range(rank)))
        self._pin(labels, why)
        return labels

    def all_positions(self, shape: Sequence[int], why: str) -> Labels:
        """Fresh pinned labels for every dimension of a shape."""
        return tuple(self.positions(size, axis, len(shape), why) for axis, size in enumerate(shape))

    def _pin(self, labels: Array, why: str) -> None:
        flat = labels.ravel()
        if not flat.size:
            return
        if flat.max() >= len(self._pinned):
            grown = np.zeros(max(int(flat.max()) + 1, 2 * len(self._pinned)), bool)
            grown[: len(self._pinned)] = self._pinned
            self._pinned = grown
        self._pinned[flat] = True
        self.pins.append((flat, why))

    def pin(self, labels: Array | None, axis: int, why: str) -> None:
        """Fix the coordinate along an axis; what the labels depend on besides may still move."""
        if labels is None:
            return
        hub = self.collapse(labels, [k for k in range(labels.ndim) if k != axis])
        assert hub is not None
        if not self.pinned(hub).all():
            self._pin(hub[~self.pinned(hub)], why)

    def mark(self, labels: Array | None) -> None:
        """Record that these labels, and no others, occur in one place (each array once)."""
        if labels is not None and id(labels) not in self._marked:
            self._marked[id(labels)] = labels
            self.marks.append((labels, self.tag()))

    # -- ties --------------------------------------------------------------------------------------------------------

    def unify(self, first: Array | None, second: Array | None) -> None:
        """Tie two broadcastable arrays element by element."""
        if first is None or second is None or first is second:
            return
        only_first = [k for k in range(first.ndim) if first.shape[k] > 1 and second.shape[k] == 1]
        only_second = [k for k in range(first.ndim) if second.shape[k] > 1 and first.shape[k] == 1]
        if only_first and only_second:  # the product of both would be large; a hub says the same
            first, second = self.collapse(first, only_first), self.collapse(second, only_second)
            assert first is not None
            assert second is not None
        a, b = np.broadcast_arrays(first, second)
        different = a != b
        if different.any():
            self.same.append((a[different], b[different], self.tag()))

    def tied(self, arrays: Sequence[Array], axis: int) -> Array | None:
        """Tie arrays of labels of one dimension, and return one that stands for all of them, as small as possible.

        A coordinate of a merged dimension that is free in one of them is what it is in the others.
        """
        arrays = sorted(arrays, key=lambda array: array.size)
        for other in arrays[1:]:
            self.unify(arrays[0], other)
        if len(arrays) < 2:
            return arrays[0] if arrays else None
        sizes = [self._free_coordinates(array) for array in arrays]
        if None in sizes:
            return arrays[sizes.index(None)]
        if len(set(sizes)) > 1:
            self.pin(arrays[0], axis, "merged in different ways")
            return arrays[0]
        assert sizes[0] is not None
        columns = zip(*(self._split_core(array, axis, sizes[0]) for array in arrays), strict=True)
        parts = [self.tied([a for a in column if a is not None], axis + k) for k, column in enumerate(columns)]
        return self.merge(parts, axis, sizes[0])

    def _free_coordinates(self, labels: Array) -> tuple[int, ...] | None:
        """How a dimension was merged, if that left some coordinate of these labels free."""
        for sizes, table in self.decompositions.items():
            if table.free and (rows := table.rows(labels)).min() >= 0 and (table.parts[rows] < 0).any():
                return sizes
        return None

    def collapse(self, labels: Array | None, axes: Sequence[int]) -> Array | None:
        """Labels that no longer depend on some axes: everything along them is tied to one hub."""
        axes = [axis for axis in axes if labels is not None and labels.shape[axis] > 1]
        if labels is None or not axes:
            return labels
        kept = tuple(1 if axis in axes else size for axis, size in enumerate(labels.shape))
        moved = np.moveaxis(labels, axes, range(-len(axes), 0)).reshape(prod(kept), -1)
        names, inverse = np.unique(moved, return_inverse=True)
        if len(names) == moved.size:
            hub = self.fresh(len(moved))
        else:  # labels that recur in several rows make these rows one
            rows = np.repeat(np.arange(len(moved)), moved.shape[1])
            nodes = len(moved) + len(names)
            graph = coo_array((np.ones(moved.size, bool), (rows, len(moved) + inverse.ravel())), (nodes, nodes))
            component = connected_components(graph, directed=False)[1][: len(moved)]
            which, group = np.unique(component, return_inverse=True)
            hub = self.fresh(len(which))[group.ravel()]
        self.same.append((np.repeat(hub, moved.shape[1]), moved.ravel(), self.tag()))
        return compress(hub.reshape(kept))

    def copies(self, labels: Array, key: Array) -> Array:
        """New labels, one for every distinct (label, key), tied to the old ones by a tag for every key."""
        pairs, inverse, _ = count_columns(np.stack([labels.ravel(), key.ravel()]))
        new = self.fresh(pairs.shape[1])
        for value in np.unique(pairs[1]):
            chosen = pairs[1] == value
            self.same.append((pairs[0, chosen], new[chosen], self.tag()))
        return new[inverse].reshape(labels.shape)

    # -- splitting and merging dimensions -----------------------------------------------------------------------------

    def _decomposition(self, sizes: tuple[int, ...]) -> Decomposition:
        return self.decompositions.setdefault(sizes, Decomposition(sizes))

    def split(self, labels: Array | None, axis: int, sizes: Sequence[int]) -> list[Array | None]:
        """Labels of the dimensions that one dimension is split into (row-major)."""
        rest = [k for k, size in enumerate(sizes) if size > 1]
        if labels is None or not rest:
            return [None] * len(sizes)
        rank = labels.ndim + len(sizes) - 1
        shape = (*labels.shape[:axis], *sizes, *labels.shape[axis + 1 :])
        if len(rest) == 1:
            return [labels.reshape(shape) if k in rest else None for k in range(len(sizes))]
        if labels.size == labels.shape[axis] and self.pinned(labels).all():
            return [self.positions(size, axis + k, rank, self.why(labels)) for k, size in enumerate(sizes)]
        core = tuple(sizes[k] for k in rest)
        parts = self._split_core(labels, axis, core)
        result: list[Array | None] = [None] * len(sizes)
        for k, part in zip(rest, parts, strict=True):
            if part is not None:
                ones = iter(part.shape[axis : axis + len(core)])
                inner = [next(ones) if j in rest else 1 for j in range(len(sizes))]
                result[k] = part.reshape(*part.shape[:axis], *inner, *part.shape[axis + len(core) :])
        return result

    def _split_core(self, labels: Array, axis: int, sizes: tuple[int, ...]) -> list[Array | None]:
        """`split` for sizes above 1; each result has `len(sizes)` axes in place of one."""
        names, inverse = np.unique(labels, return_inverse=True)
        if sizes not in self.decompositions or (self.decompositions[sizes].rows(names) < 0).any():
            via = self._refinement(names, sizes)
            if via is not None:
                return self._split_via(labels, axis, sizes, *via)
        table = self._decomposition(sizes)
        missing = names[table.rows(names) < 0]
        if missing.size:
            table.add(missing, self.fresh(len(missing), len(sizes)))
        parts = table.parts[table.rows(names)]
        shape = (*labels.shape[:axis], *sizes, *labels.shape[axis + 1 :])
        result: list[Array | None] = []
        for k in range(len(sizes)):
            column = parts[:, k]
            if (column < 0).all():
                result.append(None)
                continue
            if (column < 0).any():  # free for some labels only: those get labels of their own
                column = np.where(column < 0, self.fresh(len(column)), column)
                self.mark(column)
            result.append(compress(column[inverse.ravel()].reshape(shape)))
        return result

    def _refinement(self, names: Array, sizes: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Known coordinates of all labels that agree with a split, and the common refinement of both."""
        wanted = _cuts(sizes)
        for known, table in self.decompositions.items():
            if known == sizes or prod(known) != prod(sizes) or (table.rows(names) < 0).any():
                continue
            cuts = sorted(wanted | _cuts(known), reverse=True)
            chain = [prod(sizes), *cuts, 1]
            if all(a % b == 0 for a, b in pairwise(chain)):
                return known, tuple(a // b for a, b in pairwise(chain))
        return None

    def _split_via(
        self, labels: Array, axis: int, sizes: tuple[int, ...], known: tuple[int, ...], atoms: tuple[int, ...]
    ) -> list[Array | None]:
        """Split by known coordinates, refine each of them, and merge the pieces to the sizes asked for."""
        current: Labels = tuple(self._split_core(labels, axis, known))
        offset = 0
        for group in _groups(known, atoms):
            current = self._split_axis(current, axis + offset, axis, group)
            offset += len(group)
        for offset, group in enumerate(_groups(sizes, atoms)):
            current = self._merge_axes(current, axis + offset, axis, group)
        return list(current)

    def _split_axis(self, parts: Labels, axis: int, start: int, sizes: Sequence[int]) -> Labels:
        """Split one coordinate among several, carrying the others' dependence on it along."""
        own = axis - start
        pieces = self.split(parts[own], axis, sizes)
        others = [spread(part, axis, sizes) for part in parts]
        return (*others[:own], *pieces, *others[own + 1 :])

    def _merge_axes(self, parts: Labels, axis: int, start: int, sizes: Sequence[int]) -> Labels:
        """Merge adjacent coordinates among several, carrying the others' dependence on them along."""
        own = axis - start
        merged = self.merge(parts[own : own + len(sizes)], axis, sizes)
        others = [gather_axes(part, axis, sizes) for part in parts]
        return (*others[:own], merged, *others[own + len(sizes) :])

    def merge(self, labels: Sequence[Array | None], axis: int, sizes: Sequence[int]) -> Array | None:
        """Labels of the one dimension that adjacent dimensions are merged into (row-major)."""
        rest = [k for k, size in enumerate(sizes) if size > 1]
        if all(labels[k] is None for k in rest):
            return None
        if len(rest) == 1:
            return gather_axes(labels[rest[0]], axis, sizes)
        known = [array for k in rest if (array := labels[k]) is not None]
        if len(known) == len(rest) and all(
            array.size == array.shape[axis + k] and self.pinned(array).all()
            for k, array in zip(rest, known, strict=True)
        ):
            rank = known[0].ndim - len(sizes) + 1
            return self.positions(prod(sizes), axis, rank, self.why(known[-1]))
        core = tuple(sizes[k] for k in rest)
        shape = list(np.broadcast_shapes(*(array.shape for array in known)))
        shape[axis : axis + len(sizes)] = sizes
        columns = []
        for k in rest:
            array = labels[k]
            if array is None:  # a free coordinate is named by its place
                array = -2 - np.arange(sizes[k], dtype=np.int32).reshape(
                    [-1 if j == axis + k else 1 for j in range(len(shape))]
                )
            columns.append(np.broadcast_to(array, shape).ravel())
        distinct, inverse, _ = count_columns(np.stack(columns))
        rows = distinct.T
        table = self._decomposition(core)
        wholes = table.find(rows)
        new = wholes < 0
        if new.any():
            wholes[new] = self.fresh(int(new.sum()))
            table.add(wholes[new], rows[new])
        return compress(wholes[inverse].reshape(*shape[:axis], prod(sizes), *shape[axis + len(sizes) :]))

    def reshape(self, labels: Labels, shape: Sequence[int], new: Sequence[int]) -> Labels:
        """Labels after a row-major reshape."""
        if tuple(shape) == tuple(new):
            return labels
        if 0 in shape:
            return self.all_positions(new, "empty")
        result, done = labels, 0
        for before, after in _blocks(shape, new):
            merged = self.merge(result[done : done + len(before)], done, before)
            flat = [gather_axes(array, done, before) for array in result]
            pieces = self.split(merged, done, after)
            others = [spread(array, done, after) for array in flat]
            result = (*others[:done], *pieces, *others[done + len(before) :])
            done += len(after)
        return result

    # -- products and sums ----------------------------------------------------------------------------------------------

    def contract(self, operands: Sequence[tuple[Labels, str]], out: str) -> Labels:
        """Labels of an einsum-like product: letters that meet are tied, letters not in `out` are summed over.

        Args:
            operands: the labels of each operand with one letter per dimension.
            out: letters of the result; a letter that no operand has gives a free dimension.
        """
        letters = out + "".join(dict.fromkeys(c for _, spec in operands for c in spec if c not in out))
        place = {letter: k for k, letter in enumerate(letters)}
        found: dict[str, list[Array]] = {letter: [] for letter in letters}
        for labels, spec in operands:
            order = sorted(range(len(spec)), key=lambda k: place[spec[k]])
            for k, letter in enumerate(spec):
                array = labels[k]
                if array is not None:
                    sizes = [1] * len(letters)
                    for j in range(len(spec)):
                        sizes[place[spec[j]]] = array.shape[j]
                    found[letter].append(array.transpose(order).reshape(sizes))
        met = {letter: self.tied(arrays, place[letter]) for letter, arrays in found.items()}
        summed = list(range(len(out), len(letters)))
        result: list[Array | None] = []
        for letter in out:
            kept = self.collapse(met[letter], summed)
            result.append(None if kept is None else kept.reshape(kept.shape[: len(out)]))
        return tuple(result)

    def reduce(self, labels: Labels, axes: Sequence[int], keep: bool) -> Labels:
        """Labels after a permutation-invariant reduction over some dimensions."""
        result: list[Array | None] = []
        for axis, array in enumerate(labels):
            if axis in axes:
                if keep:
                    result.append(None)
                continue
            kept = self.collapse(array, axes)
            if kept is not None and not keep:
                kept = kept.reshape([size for k, size in enumerate(kept.shape) if k not in axes])
            result.append(kept)
        return tuple(result)

    def normalize(self, labels: Labels, axes: Sequence[int]) -> Labels:
        """Labels after an op that couples whole rows along some dimensions but treats their entries alike."""
        return tuple(array if axis in axes else self.collapse(array, axes) for axis, array in enumerate(labels))

    def why(self, labels: Array) -> str:
        """Why the first of some pinned labels is pinned."""
        first = int(labels.ravel()[0])
        return next(why for pins, why in reversed(self.pins) if pins[0] <= first <= pins[-1] and first in pins)


def spread(array: Array | None, axis: int, sizes: Sequence[int]) -> Array | None:
    """A label array whose tensor's axis is split: its dependence on that axis becomes one on the pieces."""
    if array is None:
        return None
    inner = sizes if array.shape[axis] > 1 else [1] * len(sizes)
    return compress(array.reshape(*array.shape[:axis], *inner, *array.shape[axis + 1 :]))


def gather_axes(array: Array | None, axis: int, sizes: Sequence[int]) -> Array | None:
    """A label array whose tensor's adjacent axes are merged: its dependence on them becomes one on the whole."""
    if array is None:
        return None
    stop = axis + len(sizes)
    inner = array.shape[axis:stop]
    if all(size == 1 for size in inner):
        return array.reshape(*array.shape[:axis], 1, *array.shape[stop:])
    full = np.broadcast_to(array, (*array.shape[:axis], *sizes, *array.shape[stop:]))
    return full.reshape(*array.shape[:axis], prod(sizes), *array.shape[stop:])


def _cuts(sizes: Sequence[int]) -> set[int]:
    """The strides of a mixed-radix coordinate, without the trivial ones."""
    return {prod(sizes[k:]) for k in range(1, len(sizes))}


def _groups(coarse: Sequence[int], fine: Sequence[int]) -> list[tuple[int, ...]]:
    """The runs of fine sizes that multiply to each coarse size."""
    groups, position = [], 0
    for size in coarse:
        start = position
        while prod(fine[start:position]) < size:
            position += 1
        groups.append(tuple(fine[start:position]))
    return groups


def _blocks(shape: Sequence[int], new: Sequence[int]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The smallest runs of dimensions of two shapes with equal products."""
    blocks, i, j = [], 0, 0
    while i < len(shape) or j < len(new):
        start_i, start_j = i, j
        left, right = 1, 1
        if i < len(shape):
            left, i = shape[i], i + 1
        if j < len(new):
            right, j = new[j], j + 1
        while left != right:
            if left < right:
                left, i = left * shape[i], i + 1
            else:
                right, j = right * new[j], j + 1
        blocks.append((tuple(shape[start_i:i]), tuple(new[start_j:j])))
    return blocks
