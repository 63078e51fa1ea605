"""Exact elimination of a sparse homogeneous linear system, over the rationals or modulo a prime.

A large network has tens of thousands of equations of a few terms each: they are kept one after another in flat arrays
and become dictionaries only while they are worked on.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from heapq import heapify, heappop, heappush
from math import gcd, lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array

Equation = dict[int, int]
Vector = dict[int, int]
PEELED = 0.1  # of the columns that are left: a round that takes fewer of them away is the last


class _Sparse:
    """Sparse vectors one after another: the places and the numbers of all of them."""

    def __init__(self, vectors: Iterable[dict[int, Any]] = ()) -> None:
        self.places, self.ends = array("i"), array("q", [0])
        self.numbers: list[Any] = []
        for vector in vectors:
            self.append(vector)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def append(self, vector: dict[int, Any]) -> None:
        """Add one vector at the end."""
        self.places.extend(vector)
        self.numbers.extend(vector.values())
        self.ends.append(len(self.places))

    def items(self, index: int) -> Iterator[tuple[int, Any]]:
        """The places and numbers of one vector."""
        own = slice(self.ends[index], self.ends[index + 1])
        return zip(self.places[own], self.numbers[own], strict=True)


def null_space(equations: Iterable[Equation], unknowns: Sequence[int], modulus: int = 0) -> list[Vector]:
    """A basis of the solutions of `Σ_k equation[k] x_k = 0`.

    The shortest equation goes first, and in it the unknown that is met in the fewest others (Markowitz, 1957), which
    keeps equations short: the ones of a network have few terms.

    Args:
        equations: coefficient of every unknown that is met.
        unknowns: all of them.
        modulus: 0 for the rationals, else a prime.

    Returns:
        One vector a generator, its non-zero entries by unknown; over the rationals integers without a common divisor.
    """
    system = _Triangular(equations, modulus)
    return _solutions(system, unknowns, modulus)


class _Triangular:
    """Pivots with their equations, of which none mentions the pivots of those before it.

    Args:
        equations: coefficient of every unknown that is met.
        modulus: 0 for the rationals, else a prime.
    """

    def __init__(self, equations: Iterable[Equation], modulus: int) -> None:
        self.given = _Sparse(
            {k: reduced for k, c in equation.items() if (reduced := c % modulus if modulus else c)}
            for equation in equations
        )
        self.changed: dict[int, Equation] = {}  # those that others were subtracted from
        self.pivots = array("i")
        self.solved = array("i")  # the equation of every pivot
        self._eliminate(modulus)

    def row(self, index: int) -> Equation:
        """An equation as it stands."""
        return self.changed[index] if index in self.changed else dict(self.given.items(index))

    def _eliminate(self, modulus: int) -> None:
        given, changed, count = self.given, self.changed, len(self.given)
        places = np.frombuffer(given.places, np.int32) if given.places else np.zeros(0, np.int32)
        order = np.argsort(places, kind="stable").astype(np.int32)
        by_place = places[order]
        home = np.repeat(np.arange(count, dtype=np.int32), np.diff(given.ends))[order]
        met = Counter(given.places)
        added: defaultdict[int, set[int]] = defaultdict(set)  # equations that an unknown came into
        done = bytearray(count)
        lengths = np.diff(given.ends)
        queue = (lengths * count + np.arange(count)).tolist()  # the length first, then the number
        heapify(queue)
        while queue:
            length, index = divmod(heappop(queue), count)
            if done[index]:
                continue
            row = self.row(index)
            if not row or length != len(row):  # empty, or waiting again with its new length
                continue
            pivot = min(row, key=lambda k: (abs(row[k]) != 1, met[k], k))
            for unknown in row:
                met[unknown] -= 1
            done[index] = True
            if met.pop(pivot):
                first, last = np.searchsorted(by_place, (pivot, pivot + 1))
                for other in sorted(added.pop(pivot, set()).union(home[first:last].tolist())):
                    if done[other] or pivot not in (target := self.row(other)):
                        continue
                    before = set(target)
                    for unknown in _subtract(target, row, pivot, modulus):
                        met[unknown] += 1
                        added[unknown].add(other)
                    for unknown in before.difference(target, (pivot,)):
                        met[unknown] -= 1
                    changed[other] = target
                    heappush(queue, len(target) * count + other)
            self.pivots.append(pivot)
            self.solved.append(index)


def _subtract(target: Equation, row: Equation, pivot: int, modulus: int) -> set[int]:
    """Remove the pivot from an equation by a multiple of another one; returns what it did not mention before."""
    lead, factor = row[pivot], target.pop(pivot)
    new = set()
    if lead != 1:
        common = gcd(lead, factor)
        lead, factor = lead // common, factor // common
        for unknown in target:
            target[unknown] = target[unknown] * lead % modulus if modulus else target[unknown] * lead
    for unknown, coefficient in row.items():
        if unknown == pivot:
            continue
        value = target.get(unknown, 0) - factor * coefficient
        if modulus:
            value %= modulus
        if value:
            if unknown not in target:
                new.add(unknown)
            target[unknown] = value
        else:
            target.pop(unknown, None)
    common = gcd(*target.values()) if target and not modulus else 1
    if common > 1:
        for unknown in target:
            target[unknown] //= common
    return new


def _solutions(system: _Triangular, unknowns: Sequence[int], modulus: int) -> list[Vector]:
    """One solution a free unknown, from equations of which none mentions the pivots of those before it."""
    one = 1 if modulus else Fraction(1)
    combinations = _Sparse()  # of free unknowns, for every pivot from the last to the first
    place: dict[int, int] = {}

    def combination(unknown: int) -> Iterable[tuple[int, int | Fraction]]:
        return combinations.items(place[unknown]) if unknown in place else ((unknown, one),)

    for pivot, index in zip(reversed(system.pivots), reversed(system.solved), strict=True):
        row = system.row(index)
        total: defaultdict[int, int | Fraction] = defaultdict(int)
        scale = -pow(row[pivot], -1, modulus) if modulus else Fraction(-1, row[pivot])
        for unknown, coefficient in row.items():
            if unknown != pivot:
                for source, value in combination(unknown):
                    total[source] += scale * coefficient * value
        place[pivot] = len(combinations)
        combinations.append({k: r for k, v in total.items() if (r := v % modulus if modulus else v)})
    found: dict[int, dict[int, Any]] = {unknown: {} for unknown in unknowns if unknown not in place}
    for unknown in unknowns:
        for source, value in combination(unknown):
            found[source][unknown] = value
    for vector in found.values():
        multiple = 1 if modulus else lcm(*(value.denominator for value in vector.values()))
        for unknown, value in vector.items():
            vector[unknown] = int(value * multiple)
    return list(found.values())


def independent_columns(matrix: csc_array, modulus: int = 0) -> list[int]:
    """The numbers of the columns that are no combination of those before them.

    A column with a place of its own is none, whatever the others are, and no other needs it; those go first.

    Args:
        matrix: whole numbers, `[place, column]`.
        modulus: 0 for the rationals, else a prime.
    """
    numbers = np.rint(matrix.data).astype(np.int32)
    kept = (numbers % modulus if modulus else numbers) != 0
    owner = np.repeat(np.arange(matrix.shape[1], dtype=np.int32), np.diff(matrix.indptr))[kept]
    places, numbers = matrix.indices[kept], numbers[kept]
    found: list[NDArray[np.int32]] = []
    while True:
        alone = np.unique(owner[np.bincount(places, minlength=matrix.shape[0])[places] == 1])
        left = len(np.unique(owner))
        found.append(alone)
        kept = np.isin(owner, alone, invert=True)
        owner, places, numbers = owner[kept], places[kept], numbers[kept]
        if len(alone) <= PEELED * left:
            break
    own, starts = np.unique(owner, return_index=True)
    pieces = zip(own.tolist(), starts.tolist(), np.append(starts, len(owner))[1:].tolist(), strict=True)
    met = np.bincount(places, minlength=matrix.shape[0])
    steps = _Sparse()  # vectors without the places of the steps before
    place_of: list[int] = []  # of a step
    step_of: dict[int, int] = {}
    for number, start, stop in pieces:
        entries = zip(places[start:stop].tolist(), numbers[start:stop].tolist(), strict=True)
        rest = {k: c % modulus if modulus else c for k, c in entries}
        queue = [step_of[k] for k in rest if k in step_of]
        heapify(queue)
        while queue:
            index = heappop(queue)
            if place_of[index] in rest:
                for new in _subtract(rest, dict(steps.items(index)), place_of[index], modulus):
                    if new in step_of:
                        heappush(queue, step_of[new])
        if rest:
            place = min(rest, key=lambda k: (abs(rest[k]) != 1, met[k], k))
            step_of[place] = len(steps)
            place_of.append(place)
            steps.append(rest)
            found.append(np.array([number], np.int32))
    return np.sort(np.concatenate(found)).tolist()
