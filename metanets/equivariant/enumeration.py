"""All diagrams of one kind between two rows of points, and how many there are."""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import combinations

from metanets.equivariant.diagrams import LOOSE, Blocks, Diagram


def set_partitions(points: int, most: int | None = None) -> Iterator[Blocks]:
    """Partitions of `0 … points-1` into at most `most` blocks (all when None)."""
    most = points if most is None else most

    def grow(blocks: list[list[int]], point: int) -> Iterator[Blocks]:
        if point == points:
            yield tuple(map(tuple, blocks))
            return
        for block in blocks:
            block.append(point)
            yield from grow(blocks, point + 1)
            block.pop()
        if len(blocks) < most:
            blocks.append([point])
            yield from grow(blocks, point + 1)
            blocks.pop()

    return grow([], 0)


def pairings(points: Sequence[int]) -> Iterator[Blocks]:
    """Perfect matchings of the points; none when their number is odd."""
    if not points:
        yield ()
        return
    first, *rest = points
    for i, partner in enumerate(rest):
        for others in pairings(rest[:i] + rest[i + 1 :]):
            yield ((first, partner), *others)


def partition_diagrams(lower: int, upper: int, most: int | None = None) -> list[Diagram]:
    """Partition diagrams with at most `most` blocks: a spanning set for S_n, a basis when `most` is n."""
    return [Diagram(lower, upper, blocks) for blocks in set_partitions(lower + upper, most)]


def brauer_diagrams(lower: int, upper: int) -> list[Diagram]:
    """Brauer diagrams: (k+l-1)!! of them when k+l is even, else none."""
    return [Diagram(lower, upper, blocks) for blocks in pairings(range(lower + upper))]


def free_point_diagrams(lower: int, upper: int, n: int) -> list[Diagram]:
    """Diagrams of pairs and n free points held by a head ((k+l)∖n diagrams)."""
    points = range(lower + upper)
    found = []
    for free in combinations(points, n):
        for pairs in pairings([p for p in points if p not in free]):
            blocks = tuple(sorted([*pairs, *((p,) for p in free)]))
            found.append(Diagram(lower, upper, blocks, tuple(blocks.index((p,)) for p in free)))
    return found


def jellyfish_diagrams(lower: int, upper: int, n: int) -> list[Diagram]:
    """Diagrams of n blocks held by a head, and of n-1 blocks with one loose tentacle."""
    return [
        Diagram(lower, upper, blocks, (*range(len(blocks)), *[LOOSE] * (n - len(blocks))))
        for blocks in set_partitions(lower + upper, n)
        if len(blocks) >= n - 1
    ]


@cache
def stirling(points: int, blocks: int) -> int:
    """Number of partitions of a set into that many blocks (Stirling numbers of the second kind)."""
    if blocks > points or blocks < 0:
        return 0
    if points == 0:
        return 1
    return stirling(points - 1, blocks - 1) + blocks * stirling(points - 1, blocks)


def bell(points: int, most: int | None = None) -> int:
    """Number of set partitions into at most `most` blocks."""
    return sum(stirling(points, t) for t in range((points if most is None else most) + 1))


def double_factorial(points: int) -> int:
    """Number of perfect matchings: (points-1)!! for an even number of points, else 0."""
    if points % 2:
        return 0
    product = 1
    for factor in range(points - 1, 0, -2):
        product *= factor
    return product
