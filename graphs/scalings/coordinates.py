"""The exponents of all parameters as one vector, and the generators of a scale group in it.

A walk multiplies entry (i, j, …) of a parameter by `exp(Σ_t term_t[i, j, …])`. Written as vectors the terms of one
parameter are ambiguous (a constant can go from one to the other), so they are brought to one form: the first term says
what happens to the entries (i, 0, 0, …), every other one how much more happens to (0, j, 0, …) than to (0, 0, 0, …).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csc_array, csr_array, diags_array, hstack, vstack

from graphs.program import Program
from graphs.scalings.elimination import independent_columns
from graphs.scalings.walk import ScaleWalk

ROUNDING = 1e-9


@dataclass(frozen=True)
class Segment:
    """The coordinates of one term of one tensor.

    Args:
        tensor: its name (the first of tied names).
        dims: the dimensions the term depends on.
        shape: the term's shape, 1 along all other dimensions.
        start: the first coordinate.
        first: whether it is absolute; else it is relative to its first entry.
        offset: what is added to the tensor before it is multiplied and subtracted afterwards.
        additive: whether it is added to the tensor instead of multiplied (a parameter that is exponentiated).
    """

    tensor: str
    dims: tuple[int, ...]
    shape: tuple[int, ...]
    start: int
    first: bool
    additive: bool = False
    offset: float = 0.0

    @property
    def stop(self) -> int:
        """One past the last coordinate."""
        return self.start + int(np.prod(self.shape))


@dataclass(frozen=True)
class Coordinates:
    """The exponents that the generators of a solved walk give all parameters.

    Args:
        segments: what the coordinates are.
        raw: `[coordinate, generator]`, term by term as the walk has it.
        matrix: the same in the one form.
    """

    segments: tuple[Segment, ...]
    raw: csr_array
    matrix: csc_array

    @classmethod
    def of(cls, walk: ScaleWalk) -> "Coordinates":
        """Solve a walk and write its generators in coordinates of the parameters."""
        basis = walk.system.solve().basis
        segments: list[Segment] = []
        blocks: list[csr_array] = []
        start = 0
        for name, additive, terms in (
            *((name, False, terms) for name, terms in walk.parameters.items()),
            *((name, True, terms) for name, terms in walk.additive.items()),
        ):
            if name not in first_names(walk.program):
                continue
            ordered = sorted(terms, key=lambda term: -sum(size > 1 for size in term.shape))
            joint = ordered[0].shape if ordered and sum(size > 1 for size in ordered[0].shape) > 1 else None
            inside = [t for t in ordered if joint and all(a == 1 or b > 1 for a, b in zip(t.shape, joint, strict=True))]
            pieces = [inside] if inside else []
            pieces += [[term] for term in terms if not any(term is other for other in inside)]
            for number, piece in enumerate(pieces):
                shape = np.broadcast_shapes(*(term.shape for term in piece))
                dims = tuple(d for d, size in enumerate(shape) if size > 1) or ((0,) if shape else ())
                segments.append(Segment(name, dims, shape, start, number == 0, additive, walk.offsets.get(name, 0.0)))
                block = csr_array((int(np.prod(shape)), basis.shape[1]))
                for term in piece:
                    block = csr_array(block + basis[np.broadcast_to(term, shape).ravel()])
                blocks.append(block)
                start += block.shape[0]
        raw = csr_array(vstack(blocks)) if blocks else csr_array((0, basis.shape[1]))
        del basis, blocks  # as large as what is made of them
        return cls(tuple(segments), raw, canonical(segments, raw))

    def adopted(self, other: "Coordinates", columns: NDArray[np.int64]) -> csc_array:
        """Some generators of another walk over the same program in these coordinates."""
        place = {(segment.tensor, segment.shape): segment for segment in self.segments}
        lift = coo_array((self.raw.shape[0], other.raw.shape[0])).tolil()
        for segment in other.segments:
            home = place[segment.tensor, segment.shape]
            for offset in range(segment.stop - segment.start):
                lift[home.start + offset, segment.start + offset] = 1
        return canonical(self.segments, csr_array(lift.tocsr() @ csc_array(other.raw)[:, columns]))

    def extended(self, uniform: "Coordinates", modulus: int = 0) -> "Coordinates":
        """With what generators of a walk over the same program that scales all entries of a tensor alike may add."""
        home = {(segment.tensor, segment.additive): segment for segment in self.segments if segment.first}
        own = [home[segment.tensor, segment.additive] for segment in uniform.segments]
        rows = np.concatenate([np.empty(0, np.int32), *(np.arange(s.start, s.stop, dtype=np.int32) for s in own)])
        columns = np.repeat([s.start for s in uniform.segments], [s.stop - s.start for s in own])
        lift = coo_array((np.ones(len(rows)), (rows, columns)), (self.raw.shape[0], uniform.raw.shape[0]))
        raw = csc_array(lift.tocsr() @ uniform.raw)
        lifted = canonical(self.segments, csr_array(raw))
        new = _unexplained(self.matrix, lifted, modulus)
        if not len(new):
            return self
        return Coordinates(
            self.segments, csr_array(hstack([self.raw, raw[:, new]])), csc_array(hstack([self.matrix, lifted[:, new]]))
        )

    def places(self, tensor: str, dim: int) -> NDArray[np.int64] | None:
        """The coordinates of every index of one dimension, `[index, repeats]`; None for a name that is tied to another."""
        for segment in self.segments:
            if segment.tensor == tensor and dim in segment.dims:
                numbers = np.arange(segment.start, segment.stop).reshape(segment.shape)
                return np.moveaxis(numbers, dim, 0).reshape(segment.shape[dim], -1)
        return None


def canonical(segments: Sequence[Segment], matrix: csr_array) -> csc_array:
    """Bring columns, given term by term for these segments one after another, to the one form."""
    parts: list[csr_array] = []
    absolute = start = 0
    for segment in segments:
        size = segment.stop - segment.start
        block = csr_array(matrix[start : start + size])
        start += size
        if segment.first:
            absolute = len(parts)
        elif block.nnz:
            head = csr_array(block[[0]])
            parts[absolute] = csr_array(parts[absolute] + _repeated(head, parts[absolute].shape[0]))
            block = csr_array(block - _repeated(head, size))
        parts.append(block)
    return csc_array(vstack(parts)) if parts else csc_array(matrix)


def _unexplained(known: csc_array, candidates: csc_array, modulus: int) -> NDArray[np.int64]:
    """Candidate columns that may not be sums of known ones: a known column takes off what it alone can explain."""
    left, rest = np.arange(known.shape[1]), csr_array(candidates)
    while len(left):
        table = csr_array(known[:, left])
        single = np.flatnonzero(np.diff(table.indptr) == 1)
        own, first = np.unique(table.indices[table.indptr[single]], return_index=True)
        if not len(own):
            break
        row = single[first]
        share = csr_array(diags_array(1 / table.data[table.indptr[row]]) @ rest[row])
        rest = _reduced(rest - csr_array(table[:, own]) @ share, modulus)
        left = np.delete(left, own)
    return np.unique(rest.indices).astype(np.int64)


def _reduced(matrix: csr_array, modulus: int) -> csr_array:
    """Without entries that are rounding, or zero modulo `modulus`."""
    matrix.data = matrix.data % modulus if modulus else np.where(abs(matrix.data) > ROUNDING, matrix.data, 0)
    matrix.eliminate_zeros()
    return matrix


def _repeated(row: csr_array, times: int) -> csr_array:
    """The same row again and again."""
    return csr_array((np.tile(row.data, times), np.tile(row.indices, times), np.arange(times + 1) * row.nnz),
                     (times, row.shape[1]))  # fmt: skip


def first_names(program: Program) -> dict[str, tuple[str, ...]]:
    """The first name of every tensor, with all the names that are tied to it."""
    by_value: dict[int, list[str]] = {}
    for name, value in program.tensors.items():
        by_value.setdefault(value, []).append(name)
    return {names[0]: tuple(names) for names in by_value.values()}


def independent(known: csc_array, candidates: csc_array, modulus: int = 0) -> NDArray[np.int64]:
    """Which candidate columns are needed to span, together with the known ones, all of them; earlier ones first.

    Args:
        known: `[coordinate, column]`.
        candidates: `[coordinate, column]`.
        modulus: 0 for the reals, 2 for signs.
    """
    chosen = np.array(independent_columns(csc_array(hstack([known, candidates])), modulus), np.int64)
    return chosen[chosen >= known.shape[1]] - known.shape[1]


def settled(segments: Sequence[Segment], generators: csc_array, modulus: int = 0) -> csr_array:
    """The same generators with constants gathered: what one term adds everywhere and another takes off, both drop.

    Args:
        segments: what the coordinates are.
        generators: `[coordinate, generator]`, term by term.
        modulus: 2 for signs.
    """
    owner = np.repeat(np.arange(len(segments), dtype=np.int32), [s.stop - s.start for s in segments])
    sizes = np.bincount(owner, minlength=len(segments))
    shifts: dict[tuple[int, str, bool], dict[int, float]] = {}
    entries = coo_array(generators)
    if modulus:
        entries.data = entries.data % modulus
        entries.eliminate_zeros()
    order = np.lexsort((owner[entries.row], entries.col))
    keys = np.stack([entries.col[order], owner[entries.row][order]], 1)
    for part in np.split(order, np.flatnonzero((np.diff(keys, axis=0) != 0).any(1)) + 1) if len(order) else []:
        number, column = int(owner[entries.row[part[0]]]), int(entries.col[part[0]])
        value, count = np.unique(entries.data[part], return_counts=True)
        if 2 * count.max() > sizes[number]:
            segment = segments[number]
            own = shifts.setdefault((column, segment.tensor, segment.additive), {})
            own[number] = float(value[count.argmax()])
    rows, columns, values = [entries.row], [entries.col], [entries.data]
    for (column, *_), own in shifts.items():
        if len(own) > 1:
            home = min(own, key=lambda number: (sizes[number], number))
            for number, constant in own.items():
                by = sum(own.values()) - constant if number == home else -constant
                rows.append(np.arange(segments[number].start, segments[number].stop, dtype=np.int32))
                columns.append(np.full(sizes[number], column, dtype=np.int32))
                values.append(np.full(sizes[number], by))
    joined = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    result = csr_array(coo_array(joined, generators.shape))
    if modulus:
        result.data = result.data % modulus
    result.eliminate_zeros()
    return result
