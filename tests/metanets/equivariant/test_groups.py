"""Dimensions of equivariant maps: golden values, the brute-force null space, and the span of the diagrams."""

import networkx as nx
import numpy as np
import pytest

from metanets.equivariant import (
    Alternating,
    GraphAutomorphism,
    Group,
    Orthogonal,
    SpecialOrthogonal,
    Symmetric,
    Symplectic,
    basis,
    invariants,
    spanning_set,
    true_dimension,
)
from metanets.equivariant.functor import tensor_power
from modelzoo.errors import UserError

CYCLE4, CYCLE5 = GraphAutomorphism.of(nx.cycle_graph(4)), GraphAutomorphism.of(nx.cycle_graph(5))
DIRECTED4 = GraphAutomorphism.of(nx.cycle_graph(4, create_using=nx.DiGraph))
PATH3, STAR4 = GraphAutomorphism.of(nx.path_graph(3)), GraphAutomorphism.of(nx.star_graph(3))

GOLDEN: dict[Group, list[int]] = {  # dimension by order k + l = 0, 1, 2, …
    Symmetric(2): [1, 1, 2, 4, 8, 16, 32],
    Symmetric(3): [1, 1, 2, 5, 14, 41, 122],
    Symmetric(4): [1, 1, 2, 5, 15, 51],
    Alternating(3): [1, 1, 3, 9, 27, 81, 243],
    Alternating(4): [1, 1, 2, 6, 22, 86],
    Alternating(5): [1, 1, 2, 5, 16],
    Orthogonal(1): [1, 0, 1, 0, 1, 0, 1],
    Orthogonal(2): [1, 0, 1, 0, 3, 0, 10, 0, 35],
    Orthogonal(3): [1, 0, 1, 0, 3, 0, 15],
    Symplectic(2): [1, 0, 1, 0, 2, 0, 5, 0, 14],
    Symplectic(4): [1, 0, 1, 0, 3, 0, 14],
    SpecialOrthogonal(2): [1, 0, 2, 0, 6, 0, 20],
    SpecialOrthogonal(3): [1, 0, 1, 1, 3, 6, 15],
    SpecialOrthogonal(4): [1, 0, 1, 0, 4, 0],
    CYCLE4: [1, 1, 3, 10, 36, 136],
    CYCLE5: [1, 1, 3, 13, 63],
    DIRECTED4: [1, 1, 4, 16, 64],
    PATH3: [1, 2, 5, 14, 41, 122, 365],
    STAR4: [1, 2, 5, 15, 51, 187],
}
NAMES = {CYCLE4: "cycle 4", CYCLE5: "cycle 5", DIRECTED4: "directed cycle 4", PATH3: "path 3", STAR4: "star 4"}


def name(group: Group) -> str:
    return NAMES.get(group, str(group))


@pytest.mark.parametrize("group", GOLDEN, ids=name)
def test_golden_dimensions_and_the_brute_force_null_space(group: Group) -> None:
    expected = GOLDEN[group]
    assert [true_dimension(group, 0, m) for m in range(len(expected))] == expected
    assert [invariants(group, m).shape[1] for m in range(len(expected))] == expected


@pytest.mark.parametrize("group", GOLDEN, ids=name)
def test_diagrams_span_the_brute_force_null_space_and_the_basis_is_one(group: Group) -> None:
    most = {CYCLE4: 3, CYCLE5: 2, DIRECTED4: 3, STAR4: 3}.get(group, 4)  # graphs: the search grows fast
    for order in range(min(len(GOLDEN[group]), most + 1)):
        expected = invariants(group, order)
        terms = spanning_set(group, 0, order)
        if not terms:
            assert expected.shape[1] == 0
            continue
        vectors = np.array([term.matrix(group).ravel() for term in terms]).T
        assert np.abs(vectors - expected @ (expected.T @ vectors)).max() < 1e-10  # inside
        assert np.linalg.matrix_rank(vectors, tol=1e-8) == expected.shape[1]  # all of it
        independent = np.array([term.matrix(group).ravel() for term in basis(group, 0, order)]).T
        assert independent.shape[1] == np.linalg.matrix_rank(independent, tol=1e-8) == expected.shape[1]


def test_diagrams_are_only_a_spanning_set_for_small_n() -> None:
    assert len(spanning_set(Orthogonal(2), 3, 3)) == 15
    vectors = np.array([d.matrix(Orthogonal(2)).ravel() for d in spanning_set(Orthogonal(2), 3, 3)])
    assert np.linalg.matrix_rank(vectors) == 10 == len(basis(Orthogonal(2), 3, 3))
    assert [true_dimension(Symmetric(n), 2, 2) for n in (2, 3, 4, 9)] == [8, 14, 15, 15]
    assert [true_dimension(Alternating(n), 0, m) for n, m in ((3, 2), (3, 4), (4, 3), (5, 4))] == [3, 27, 6, 16]
    for n, m in ((2, 4), (3, 6), (4, 4)):  # n ≥ m/2 and n ≥ m
        assert len(spanning_set(Orthogonal(n), 0, m)) == true_dimension(Orthogonal(n), 0, m)
    assert len(spanning_set(Symplectic(4), 0, 4)) == true_dimension(Symplectic(4), 0, 4)


def quiver_walks(n: int, order: int) -> int:
    """Closed walks on the McKay quiver of R^n: restrict a Young diagram to S_(n-1), induce back to S_n."""
    counts = {(n,): 1}
    for _ in range(order):
        following: dict[tuple[int, ...], int] = {}
        for shape, count in counts.items():
            for row in range(len(shape)):
                smaller = [*shape]
                smaller[row] -= 1
                if smaller != sorted(smaller, reverse=True):
                    continue
                for grown in range(len(smaller) + 1):
                    larger = [*smaller, 0]
                    larger[grown] += 1
                    if larger == sorted(larger, reverse=True):
                        target = tuple(r for r in larger if r)
                        following[target] = following.get(target, 0) + count
        counts = following
    return counts.get((n,), 0)


def test_dimensions_count_walks_on_the_mckay_quiver() -> None:
    for n in range(1, 7):
        for order in range(6):
            assert quiver_walks(n, order) == true_dimension(Symmetric(n), 0, order)


def defect(group: Group, element: np.ndarray, order_in: int, order_out: int) -> float:
    before, after = tensor_power(element, order_in), tensor_power(element, order_out)
    matrices = [term.matrix(group) for term in basis(group, order_in, order_out)]
    return max(np.abs(m @ before - after @ m).max() for m in matrices)


OUTSIDERS = {  # an element of a larger group of the same kind
    Symmetric(3): np.diag([2.0, 1.0, 1.0]),
    Alternating(3): Symmetric(3).generators()[1],
    Orthogonal(3): np.diag([2.0, 0.5, 1.0]),
    SpecialOrthogonal(3): np.diag([-1.0, 1.0, 1.0]),
    Symplectic(4): np.diag([2.0, 1.0, 1.0, 1.0]),
    CYCLE4: Symmetric(4).generators()[1],
    DIRECTED4: np.eye(4)[::-1],
}


@pytest.mark.parametrize("group", OUTSIDERS, ids=name)
def test_random_elements_commute_and_an_outsider_does_not(group: Group) -> None:
    random = np.random.default_rng(0)
    for order_in, order_out in [(1, 1), (2, 1), (2, 2)]:
        if group.dimension(order_in + order_out):
            for _ in range(5):
                assert defect(group, group.element(random), order_in, order_out) < 1e-10
    orders = [(a, b) for a, b in [(1, 1), (1, 2), (2, 2)] if group.dimension(a + b)]
    assert max(defect(group, OUTSIDERS[group], a, b) for a, b in orders) > 0.5


@pytest.mark.parametrize("group", OUTSIDERS, ids=name)
def test_random_elements_belong_to_the_group(group: Group) -> None:
    random = np.random.default_rng(1)
    for _ in range(5):
        g = group.element(random)
        form = np.eye(group.n) if group.form is None else group.form
        assert np.abs(g.T @ form @ g - form).max() < 1e-10
        if isinstance(group, Alternating | SpecialOrthogonal):
            assert np.linalg.det(g) == pytest.approx(1)
        if isinstance(group, GraphAutomorphism):
            assert np.array_equal(g @ group.adjacency, group.adjacency @ g)


def test_impossible_groups_are_user_errors() -> None:
    for make in (lambda: Symmetric(0), lambda: Alternating(1), lambda: Symplectic(3)):
        with pytest.raises(UserError, match="needs"):
            make()
    loop = nx.Graph([(0, 0)])
    with pytest.raises(UserError, match="loop"):
        GraphAutomorphism.of(loop)
