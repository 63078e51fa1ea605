"""Exact elimination of a sparse homogeneous linear system, over the rationals or modulo a prime."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from fractions import Fraction
from heapq import heapify, heappop, heappush
from math import gcd, lcm

Equation = dict[int, int]
Vector = dict[int, int]


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
    return _solutions(_triangular(equations, modulus), unknowns, modulus)


def _triangular(equations: Iterable[Equation], modulus: int) -> list[tuple[int, Equation]]:
    """Pivots with their equations, of which none mentions the pivots of those before it."""
    rows = [
        {k: reduced for k, c in equation.items() if (reduced := c % modulus if modulus else c)}
        for equation in equations
    ]
    met: defaultdict[int, set[int]] = defaultdict(set)
    for index, row in enumerate(rows):
        for unknown in row:
            met[unknown].add(index)
    queue = [(len(row), index) for index, row in enumerate(rows)]
    heapify(queue)
    solved: list[tuple[int, Equation]] = []
    while queue:
        length, index = heappop(queue)
        row = rows[index]
        if not row or length != len(row):  # empty, or waiting again with its new length
            continue
        pivot = min(row, key=lambda k: (abs(row[k]) != 1, len(met[k]), k))
        for unknown in row:
            met[unknown].discard(index)
        for other in sorted(met.pop(pivot)):
            before = set(rows[other])
            for unknown in _subtract(rows[other], row, pivot, modulus):
                met[unknown].add(other)
            for unknown in before.difference(rows[other]):
                met[unknown].discard(other)
            heappush(queue, (len(rows[other]), other))
        solved.append((pivot, row))
        rows[index] = {}
    return solved


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


def _solutions(solved: list[tuple[int, Equation]], unknowns: Sequence[int], modulus: int) -> list[Vector]:
    """One solution a free unknown, from equations of which none mentions the pivots of those before it."""
    pivots = {pivot for pivot, _ in solved}
    free = [unknown for unknown in unknowns if unknown not in pivots]
    one = 1 if modulus else Fraction(1)
    combination: dict[int, dict[int, int | Fraction]] = {unknown: {unknown: one} for unknown in free}
    for pivot, row in reversed(solved):
        total: defaultdict[int, int | Fraction] = defaultdict(int)
        scale = -pow(row[pivot], -1, modulus) if modulus else Fraction(-1, row[pivot])
        for unknown, coefficient in row.items():
            if unknown != pivot:
                for source, value in combination[unknown].items():
                    total[source] += scale * coefficient * value
        combination[pivot] = {
            k: v % modulus if modulus else v for k, v in total.items() if (v % modulus if modulus else v)
        }
    vectors: dict[int, dict[int, int | Fraction]] = {unknown: {} for unknown in free}
    for unknown in unknowns:
        for source, value in combination[unknown].items():
            vectors[source][unknown] = value
    found = []
    for vector in vectors.values():
        multiple = 1 if modulus else lcm(*(value.denominator for value in vector.values()))
        found.append({unknown: int(value * multiple) for unknown, value in vector.items()})
    return found


def independent_vectors(vectors: Sequence[Vector], modulus: int = 0) -> list[int]:
    """The numbers of the vectors that are no combination of those before them.

    Args:
        vectors: their non-zero entries.
        modulus: 0 for the rationals, else a prime.
    """
    met = Counter(place for vector in vectors for place in vector)
    steps: list[tuple[int, Vector]] = []  # a place, and a vector without the places of the steps before
    step_of: dict[int, int] = {}
    found = []
    for number, vector in enumerate(vectors):
        rest = {k: c % modulus if modulus else c for k, c in vector.items()}
        rest = {k: c for k, c in rest.items() if c}
        queue = [step_of[k] for k in rest if k in step_of]
        heapify(queue)
        while queue:
            place, step = steps[heappop(queue)]
            if place in rest:
                for new in _subtract(rest, step, place, modulus):
                    if new in step_of:
                        heappush(queue, step_of[new])
        if rest:
            place = min(rest, key=lambda k: (abs(rest[k]) != 1, met[k], k))
            step_of[place] = len(steps)
            steps.append((place, rest))
            found.append(number)
    return found
