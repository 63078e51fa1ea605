"""The category laws of diagrams, and the functor to matrices."""

from itertools import permutations, product
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metanets.equivariant.diagrams import LOOSE, Diagram, Morphism, parity
from metanets.equivariant.enumeration import (
    bell,
    brauer_diagrams,
    double_factorial,
    free_point_diagrams,
    jellyfish_diagrams,
    partition_diagrams,
)
from metanets.equivariant.functor import morphism_matrix
from metanets.equivariant.groups import (
    Alternating,
    Group,
    Orthogonal,
    SpecialOrthogonal,
    Symmetric,
    Symplectic,
)

CATEGORIES: list[Group] = [Symmetric(2), Symmetric(3), Orthogonal(2), Orthogonal(3), Symplectic(2), Symplectic(4)]
HEADED: list[Group] = [SpecialOrthogonal(2), SpecialOrthogonal(3), Alternating(2), Alternating(3)]


@st.composite
def partitions(draw: st.DrawFn, lower: int, upper: int) -> Diagram:
    blocks: list[list[int]] = []
    for point in range(lower + upper):
        at = draw(st.integers(0, len(blocks)))
        blocks = (
            [*blocks, [point]] if at == len(blocks) else [[*b, point] if i == at else b for i, b in enumerate(blocks)]
        )
    return Diagram(lower, upper, tuple(map(tuple, blocks)))


@st.composite
def chains(draw: st.DrawFn, length: int) -> list[Diagram]:
    """Diagrams that can be stacked, the topmost first."""
    rows = [draw(st.integers(0, 4)) for _ in range(length + 1)]
    return [draw(partitions(rows[i + 1], rows[i])) for i in range(length)]


@given(chains(3))
def test_composition_is_associative_and_counts_the_same_closed_components(chain: list[Diagram]) -> None:
    a, b, c = chain
    (ab, first), (bc, second) = a.compose(b), b.compose(c)
    left, more_left = ab.compose(c)
    right, more_right = a.compose(bc)
    assert left == right
    assert first + more_left == second + more_right


@given(chains(1))
def test_identities_transposes_and_the_factorisation(chain: list[Diagram]) -> None:
    (d,) = chain
    assert d.compose(Diagram.identity(d.lower)) == (d, 0)
    assert Diagram.identity(d.upper).compose(d) == (d, 0)
    assert d.transpose().transpose() == d
    upper, planar, lower = d.factor()
    assert planar.is_planar()
    assert all(len(b) == 2 for p in (upper, lower) for b in p.blocks)
    assert len(upper.through) == d.upper
    assert len(lower.through) == d.lower
    recomposed, loops = upper.compose(planar)[0].compose(lower)
    assert (recomposed, loops) == (d, 0)


@given(chains(2), chains(2))
def test_interchange_and_transposes_of_compositions(left: list[Diagram], right: list[Diagram]) -> None:
    (a, b), (c, d) = left, right
    both, loops = a.tensor(c).compose(b.tensor(d))
    (ab, one), (cd, two) = a.compose(b), c.compose(d)
    assert (both, loops) == (ab.tensor(cd), one + two)
    assert b.transpose().compose(a.transpose()) == (ab.transpose(), one)


def test_planarity_is_not_always_true() -> None:
    assert not Diagram.permutation([1, 0]).is_planar()
    assert Diagram.permutation([1, 0]).crossings() == 1
    assert not Diagram(0, 4, ((0, 2), (1, 3))).is_planar()
    assert Diagram(2, 2, ((0, 1), (2, 3))).is_planar()
    assert not Diagram(0, 6, ((0, 2, 4), (1, 3, 5))).is_planar()


def entry(d: Diagram, index: tuple[int, ...], n: int, form: np.ndarray | None) -> float:
    """The definition of the functor, entry by entry."""
    value = 1.0
    for block in d.blocks:
        inside = block[-1] < d.upper or block[0] >= d.upper
        if form is not None and inside:
            a, b = index[block[0]], index[block[1]]
            value *= form[b, a] if block[-1] < d.upper else form[a, b]
        else:
            value *= len({index[p] for p in block}) == 1
    if form is not None:
        value *= (-1) ** d.crossings()
    if d.head:
        total = 0
        for loose in range(n):
            held = [loose if t == LOOSE else index[d.blocks[t][0]] for t in d.head]
            total += parity(held) if len(set(held)) == n else 0
            if LOOSE not in d.head:
                break
        value *= total
    return value


@pytest.mark.parametrize("group", [*CATEGORIES, *HEADED], ids=str)
def test_dense_matrices_follow_the_definition(group: Group) -> None:
    for lower, upper in [(0, 0), (1, 1), (2, 1), (1, 2), (2, 2)]:
        for d in group.diagrams(lower, upper):
            expected = [entry(d, index, group.n, group.form) for index in product(range(group.n), repeat=lower + upper)]
            assert d.matrix(group).ravel().tolist() == expected


@pytest.mark.parametrize("group", CATEGORIES, ids=str)
def test_the_functor_respects_composition_with_its_loops(group: Group) -> None:
    most = 3 if group.n == 2 and not isinstance(group, Symmetric) else 2
    for lower, middle, upper in product(range(most + 1), repeat=3):
        below = [(d, d.matrix(group)) for d in group.diagrams(lower, middle)]
        for above in group.diagrams(middle, upper):
            matrix = above.matrix(group)
            for d, m in below:
                stacked, loops = above.compose(d)
                assert np.array_equal(matrix @ m, group.loop**loops * stacked.matrix(group))


@pytest.mark.slow
@pytest.mark.parametrize("group", [Symmetric(2), Symmetric(3), Orthogonal(3), Symplectic(2), Symplectic(4)], ids=str)
def test_the_functor_respects_every_composition_up_to_three_points(group: Group) -> None:
    """Not only on matrices of diagrams, but on all of them at once: every diagram below as one wide matrix."""
    count = 0
    for middle in range(4):
        below = [d for lower in range(4) for d in group.diagrams(lower, middle)]
        wide = np.concatenate([d.matrix(group) for d in below], 1) if below else np.zeros((group.n**middle, 0))
        splits = np.cumsum([group.n**d.lower for d in below])[:-1]
        for upper in range(4):
            for above in group.diagrams(middle, upper):
                for d, product_matrix in zip(below, np.split(above.matrix(group) @ wide, splits, 1), strict=True):
                    stacked, loops = above.compose(d)
                    assert np.array_equal(product_matrix, group.loop**loops * stacked.matrix(group))
                    count += 1
    print(f"{group}: {count:,} compositions")


@pytest.mark.parametrize("group", CATEGORIES, ids=str)
def test_the_functor_respects_products(group: Group) -> None:
    shapes = [(0, 1), (1, 1), (2, 0), (0, 2), (1, 2)]
    diagrams = [d for lower, upper in shapes for d in group.diagrams(lower, upper)]
    for a, b in product(diagrams, repeat=2):
        assert np.array_equal(a.tensor(b).matrix(group), np.kron(a.matrix(group), b.matrix(group)))


@pytest.mark.parametrize("group", HEADED, ids=str)
def test_heads_multiply_out(group: Group) -> None:
    for lower, middle, upper in product(range(3), repeat=3):
        for a in group.diagrams(middle, upper):
            for b in group.diagrams(lower, middle):
                stacked = Morphism.of(a, group.loop) @ Morphism.of(b, group.loop)
                expected = a.matrix(group) @ b.matrix(group)
                assert np.array_equal(morphism_matrix(stacked, group, lower, upper), expected)
    diagrams = [d for shape in [(0, 1), (1, 1), (0, 2), (2, 1)] for d in group.diagrams(*shape)]
    for a, b in product(diagrams, repeat=2):
        beside = Morphism.of(a, group.loop) * Morphism.of(b, group.loop)
        expected = np.kron(a.matrix(group), b.matrix(group))
        assert np.array_equal(morphism_matrix(beside, group, a.lower + b.lower, a.upper + b.upper), expected)


@settings(max_examples=40)
@given(st.data())
def test_morphisms_with_heads_are_associative_as_maps(data: st.DataObject) -> None:
    n = data.draw(st.sampled_from([2, 3]))
    rows = [data.draw(st.integers(0, 2)) for _ in range(4)]
    kind = data.draw(st.sampled_from([SpecialOrthogonal, Alternating]))
    choices = [kind(n).diagrams(rows[i + 1], rows[i]) for i in range(3)]
    a, b, c = (Morphism.of(data.draw(st.sampled_from(found)), n) if found else Morphism({}, n) for found in choices)
    matrices = [morphism_matrix(m, kind(n), rows[3], rows[0]) for m in ((a @ b) @ c, a @ (b @ c))]
    assert np.array_equal(*matrices)
    assert (a + a) @ b == 2 * (a @ b)


def test_transposes_are_transposed_matrices() -> None:
    for group in [Symmetric(3), Orthogonal(3), SpecialOrthogonal(2), SpecialOrthogonal(3), Alternating(3)]:
        for d in group.diagrams(2, 1) + group.diagrams(1, 1):
            assert np.array_equal(d.transpose().matrix(group), d.matrix(group).T)
    group = Symplectic(4)  # Ω changes its sign with the row it sits in
    for d in group.diagrams(2, 2):
        sign = (-1) ** sum((i not in d.through) for i in range(len(d.blocks)))
        assert np.array_equal(d.transpose().matrix(group), sign * d.matrix(group).T)


def test_counts() -> None:
    for lower, upper in [(0, 0), (1, 1), (2, 2), (2, 3), (3, 3)]:
        assert len(set(partition_diagrams(lower, upper))) == bell(lower + upper)
        assert len(set(brauer_diagrams(lower, upper))) == double_factorial(lower + upper)
    assert [bell(m) for m in range(7)] == [1, 1, 2, 5, 15, 52, 203]
    assert [double_factorial(m) for m in range(0, 9, 2)] == [1, 1, 3, 15, 105]
    assert len(free_point_diagrams(2, 3, 3)) == 10
    assert not free_point_diagrams(1, 1, 3)
    assert len(jellyfish_diagrams(2, 2, 3)) == 6 + 7  # S(4, 3) + S(4, 2)


def test_parity_is_the_determinant() -> None:
    for order in permutations(range(4)):
        assert parity(order) == round(np.linalg.det(np.eye(4)[list(order)]))


def test_wrong_diagrams_are_refused() -> None:
    with pytest.raises(ValueError, match="partition"):
        Diagram(1, 1, ((0,),))
    with pytest.raises(ValueError, match="tentacles"):
        Diagram(1, 1, ((0,), (1,)), (0, 0))
    with pytest.raises(ValueError, match="stack"):
        Diagram.identity(2).compose(Diagram.identity(1))
    with pytest.raises(ValueError, match="Morphism"):
        free_point_diagrams(1, 1, 2)[0].compose(Diagram.identity(1))
    with pytest.raises(ValueError, match="tentacles"):
        free_point_diagrams(1, 1, 2)[0].matrix(SpecialOrthogonal(3))


@given(chains(1))
def test_pictures_are_documents_with_one_dot_a_point(chain: list[Diagram]) -> None:
    root = ElementTree.fromstring(chain[0].draw("a < b"))
    assert len(root.findall("{*}circle")) == chain[0].points
