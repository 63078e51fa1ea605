"""Diagrams: set partitions drawn as strings between two rows of points, and how to stack them.

"Categorification of Group Equivariant Neural Networks", "Connecting Permutation Equivariant Neural Networks and Partition
Diagrams", "How Jellyfish Characterise Alternating Group Equivariant Neural Networks" (Pearce-Crump, 2022-2023).

One class draws the maps of every group. A block forces its points to carry one index; a *head* is a Levi-Civita symbol
whose tentacles hold on to blocks:

- partition diagram: any blocks, no head (the symmetric group);
- Brauer diagram: blocks of two points, no head (the orthogonal and symplectic groups);
- free points: blocks of two points, and n single points held by a head (the special orthogonal group);
- jellyfish: a head whose n tentacles hold all blocks, one of them possibly loose (the alternating group).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, combinations, permutations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from metanets.equivariant.groups import Group

LOOSE = -1  # a tentacle that holds no point: its index is summed over

Blocks = tuple[tuple[int, ...], ...]


class Factors(NamedTuple):
    """`diagram = upper ∘ planar ∘ lower`: two permutations around a diagram without crossings."""

    upper: "Diagram"
    planar: "Diagram"
    lower: "Diagram"


@dataclass(frozen=True)
class Diagram:
    """A set partition of l upper and k lower points: a map from k-fold to l-fold tensors.

    Points are numbered 0 … l-1 in the upper row, then l … l+k-1 in the lower row.

    Args:
        lower: k, the order of the input.
        upper: l, the order of the output.
        blocks: a partition of the points; brought into canonical order.
        head: positions of blocks (in canonical order) that the tentacles hold, in the order of the symbol's indices;
            `LOOSE` for a tentacle without a block. Empty: no head.
    """

    lower: int
    upper: int
    blocks: Blocks
    head: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        blocks = tuple(sorted(tuple(sorted(block)) for block in self.blocks))
        if sorted(chain.from_iterable(blocks)) != list(range(self.points)):
            raise ValueError(f"blocks {self.blocks} do not partition the points 0 … {self.points - 1}")
        held = [block for block in self.head if block != LOOSE]
        if self.head and not (len(set(held)) == len(held) >= len(self.head) - 1 and set(held) <= {*range(len(blocks))}):
            raise ValueError(f"the tentacles {self.head} must hold different blocks, at most one may be loose")
        object.__setattr__(self, "blocks", blocks)

    @classmethod
    def identity(cls, order: int) -> "Diagram":
        """`order` straight strings."""
        return cls.permutation(range(order))

    @classmethod
    def permutation(cls, images: Sequence[int]) -> "Diagram":
        """Strings from lower point `i` to upper point `images[i]`."""
        order = len(images)
        return cls(order, order, tuple((image, order + i) for i, image in enumerate(images)))

    @property
    def points(self) -> int:
        """l + k."""
        return self.lower + self.upper

    @cached_property
    def through(self) -> tuple[int, ...]:
        """Positions of the blocks with points in both rows."""
        return tuple(i for i, block in enumerate(self.blocks) if block[0] < self.upper <= block[-1])

    def is_brauer(self) -> bool:
        """Whether every block has two points."""
        return all(len(block) == 2 for block in self.blocks)

    def crossings(self) -> int:
        """Pairs of blocks that cross; blocks of two points only cross once, so this is the count of a Brauer diagram."""
        place = self._around
        around = [sorted(place(point) for point in block) for block in self.blocks]
        return sum(_cross(a, b) for a, b in combinations(around, 2))

    def is_planar(self) -> bool:
        """Whether no two blocks cross (heads are not looked at)."""
        return self.crossings() == 0

    def _around(self, point: int) -> int:
        """Position of a point on the way around the box: upper row rightwards, lower row leftwards."""
        return point if point < self.upper else self.points - 1 - (point - self.upper)

    def transpose(self) -> "Diagram":
        """The diagram upside down: l → k."""
        flipped = [(p + self.lower if p < self.upper else p - self.upper) for p in range(self.points)]
        return _relabelled(self.upper, self.lower, [[flipped[p] for p in block] for block in self.blocks], self.head)

    def tensor(self, other: "Diagram") -> "Diagram":
        """Both side by side, `self` on the left; at most one of them may have a head (else see `Morphism`).

        Raises:
            ValueError: both have a head.
        """
        if self.head and other.head:
            raise ValueError("the product of two heads is a sum of diagrams; use Morphism")
        upper = self.upper + other.upper
        left = [[p if p < self.upper else p + other.upper for p in block] for block in self.blocks]
        right = [
            [p + self.upper if p < other.upper else p - other.upper + upper + self.lower for p in block]
            for block in other.blocks
        ]
        head = self.head or tuple(LOOSE if t == LOOSE else t + len(left) for t in other.head)
        return _relabelled(self.lower + other.lower, upper, left + right, head)

    def compose(self, below: "Diagram") -> tuple["Diagram", int]:
        """`self ∘ below` for diagrams without heads: the stacked diagram and the number of closed components.

        Raises:
            ValueError: the rows do not match, or one of them has a head.
        """
        if self.head or below.head:
            raise ValueError("a composition with a head is a sum of diagrams; use Morphism")
        ((_, diagram, loops),) = _stack(self, below)
        return diagram, loops

    def factor(self) -> Factors:
        """The diagram as permutation · planar · permutation, the form that the fast product follows.

        In the planar diagram the blocks through both rows stand side by side on the left; blocks inside one row follow.
        """
        through = set(self.through)
        order = sorted(range(len(self.blocks)), key=lambda i: (i not in through, self.blocks[i]))
        upper = [p for i in order for p in self.blocks[i] if p < self.upper]
        lower = [p for i in order for p in self.blocks[i] if p >= self.upper]
        place = {p: i for i, p in enumerate(upper)} | {p: self.upper + i for i, p in enumerate(lower)}
        planar = _relabelled(self.lower, self.upper, [[place[p] for p in block] for block in self.blocks], self.head)
        return Factors(
            Diagram.permutation(upper),
            planar,
            Diagram.permutation([place[self.upper + i] - self.upper for i in range(self.lower)]),
        )

    def normal(self) -> tuple[int, "Diagram"]:
        """The sign and the diagram with sorted tentacles (a loose one last) that it equals up to that sign."""
        keys = [t if t != LOOSE else len(self.blocks) for t in self.head]
        ordered = tuple(sorted(self.head, key=lambda t: t if t != LOOSE else len(self.blocks)))
        return parity(keys), Diagram(self.lower, self.upper, self.blocks, ordered)

    def matrix(self, group: "Group") -> NDArray[np.float64]:
        """The dense matrix `[n^l, n^k]` of the group's map for this diagram; see `functor.matrix`."""
        from metanets.equivariant.functor import matrix

        return matrix(self, group)

    def draw(self, title: str = "") -> str:
        """The picture, as an SVG document."""
        from metanets.equivariant.drawing import svg

        return svg(self, title)


def _cross(a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether two sorted blocks on a circle cross: some two points of `a` separate two points of `b`."""
    arcs = {sum(x < y for x in a) % len(a) for y in b}
    return len(arcs) > 1


def _relabelled(lower: int, upper: int, blocks: Sequence[Iterable[int]], head: Sequence[int]) -> Diagram:
    """A diagram from blocks in any order, whose head counts in that order."""
    ordered = [tuple(sorted(block)) for block in blocks]
    place = {block: i for i, block in enumerate(sorted(ordered))}
    return Diagram(lower, upper, tuple(ordered), tuple(LOOSE if t == LOOSE else place[ordered[t]] for t in head))


def parity(values: Sequence[int]) -> int:
    """Sign of the permutation that sorts different values."""
    return -1 if sum(a > b for a, b in combinations(values, 2)) % 2 else 1


def _stack(above: Diagram, below: Diagram) -> Iterator[tuple[int, Diagram, int]]:
    """The terms `(sign, diagram, closed components)` of `above ∘ below`; none when the composition vanishes."""
    if above.lower != below.upper:
        raise ValueError(f"cannot stack {above.upper} ← {above.lower} on {below.upper} ← {below.lower}")
    # points: upper row, middle row, lower row, then one for every block, then one for every loose tentacle
    upper, middle, lower = above.upper, above.lower, below.lower
    outer = upper + middle + lower
    joins: list[tuple[int, int]] = []
    heads: list[list[int]] = []
    count = outer
    for diagram, shift in ((above, 0), (below, upper)):
        first, count = count, count + len(diagram.blocks)
        joins += [(first + i, p + shift) for i, block in enumerate(diagram.blocks) for p in block]
        if diagram.head:
            loose = count
            count += LOOSE in diagram.head
            heads.append([loose if t == LOOSE else first + t for t in diagram.head])
    boundary = [*range(upper), *range(upper + middle, outer)]
    if len(heads) < 2:
        yield from _merged(count, joins, boundary, upper, heads[0] if heads else [])
        return
    # ε_a ε_b = Σ_σ sgn(σ) Π_i δ(a_i, b_σ(i))
    for order in permutations(heads[1]):
        for sign, diagram, loops in _merged(count, [*joins, *zip(heads[0], order, strict=True)], boundary, upper, []):
            yield sign * parity(order) * parity(heads[1]), diagram, loops


def _merged(
    count: int, joins: Iterable[tuple[int, int]], boundary: Sequence[int], upper: int, head: Sequence[int]
) -> Iterator[tuple[int, Diagram, int]]:
    parent = list(range(count))

    def root(p: int) -> int:
        while parent[p] != p:
            p = parent[p]
        return p

    for a, b in joins:
        parent[root(a)] = root(b)
    held = [root(t) for t in head]
    blocks: dict[int, list[int]] = {}
    for position, p in enumerate(boundary):
        blocks.setdefault(root(p), []).append(position)
    inner = [t for t in held if t not in blocks]
    if len(set(held)) < len(held) or len(inner) > 1:  # the symbol is antisymmetric
        return
    loops = len({root(p) for p in range(count)} - set(blocks) - set(inner))
    names = list(blocks)
    tentacles = [names.index(t) if t in blocks else LOOSE for t in held]
    sign, diagram = _relabelled(len(boundary) - upper, upper, list(blocks.values()), tentacles).normal()
    yield sign, diagram, loops


@dataclass(frozen=True)
class Morphism:
    """A formal sum of diagrams with equal rows, in the category where a closed component is worth `loop`.

    With heads the laws hold for the matrices: a product of two heads is multiplied out over R^n, where different sums of
    diagrams can be one map. Without heads they hold for the sums themselves.

    `loop` is n for permutations and orthogonal groups and -n for the symplectic group: "Categorification of Group
    Equivariant Neural Networks". Supports `@` (composition), `*` (side by side), `+` and scalar multiples.

    Args:
        terms: coefficient of every diagram.
        loop: worth of a closed component.
    """

    terms: Mapping[Diagram, int]
    loop: int

    @classmethod
    def of(cls, diagram: Diagram, loop: int) -> "Morphism":
        """A single diagram."""
        sign, normal = diagram.normal()
        return cls({normal: sign}, loop)

    def __matmul__(self, below: "Morphism") -> "Morphism":
        return self._sum(
            (a * b * sign * self.loop**loops, diagram)
            for above, a in self.terms.items()
            for under, b in below.terms.items()
            for sign, diagram, loops in _stack(above, under)
        )

    def __mul__(self, right: "Morphism") -> "Morphism":
        # side by side is (self ⊗ 1) ∘ (1 ⊗ right), which also multiplies out two heads
        return self._sum(
            (a * b * sign * self.loop**loops, diagram)
            for one, a in self.terms.items()
            for two, b in right.terms.items()
            for sign, diagram, loops in _stack(
                one.tensor(Diagram.identity(two.upper)), Diagram.identity(one.lower).tensor(two)
            )
        )

    def __add__(self, other: "Morphism") -> "Morphism":
        return self._sum((c, d) for part in (self, other) for d, c in part.terms.items())

    def __rmul__(self, scalar: int) -> "Morphism":
        return self._sum((scalar * c, d) for d, c in self.terms.items())

    def _sum(self, terms: Iterable[tuple[int, Diagram]]) -> "Morphism":
        total: dict[Diagram, int] = {}
        for coefficient, diagram in terms:
            sign, normal = diagram.normal()
            total[normal] = total.get(normal, 0) + sign * coefficient
        return Morphism({d: c for d, c in total.items() if c}, self.loop)
