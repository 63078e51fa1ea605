"""The sparse solver against a dense null space, over the reals and over GF(2)."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_array

from graphs.scalings.elimination import independent_columns, null_space
from graphs.scalings.system import LinearSystem

EQUATIONS = st.lists(
    st.lists(st.tuples(st.sampled_from([-2, -1, 1, 2]), st.integers(0, 7)), min_size=1, max_size=4), max_size=9
)


def build(equations: list[list[tuple[int, int]]], modulus: int) -> tuple[LinearSystem, np.ndarray]:
    """The system on unknowns 1..7 (0 is the constant zero) and its dense matrix."""
    system = LinearSystem(modulus)
    system.fresh((7,))
    matrix = np.zeros((len(equations), 8), dtype=np.int64)
    for row, terms in enumerate(equations):
        system.equation(*((c, np.array([i])) for c, i in terms))
        for c, i in terms:
            matrix[row, i] += c
    return system, matrix[:, 1:]


@settings(max_examples=200, deadline=None)
@given(EQUATIONS)
def test_real_null_space_has_the_right_dimension_and_solves(equations: list[list[tuple[int, int]]]) -> None:
    system, matrix = build(equations, 0)
    basis = system.solve().basis.toarray()[1:]
    assert not (matrix @ basis).any()
    assert np.linalg.matrix_rank(basis) == basis.shape[1] == 7 - np.linalg.matrix_rank(matrix.astype(float))


@settings(max_examples=200, deadline=None)
@given(EQUATIONS)
def test_sign_null_space_counts_every_solution(equations: list[list[tuple[int, int]]]) -> None:
    system, matrix = build(equations, 2)
    basis = system.solve().basis.toarray()[1:].astype(np.int64) % 2
    assert not (matrix @ basis % 2).any()
    solutions = sum(not (matrix @ np.array(x) % 2).any() for x in itertools.product((0, 1), repeat=7))
    spanned = {tuple(basis @ np.array(c) % 2) for c in itertools.product((0, 1), repeat=basis.shape[1])}
    assert len(spanned) == solutions == 2 ** basis.shape[1]


def test_a_wrong_null_space_would_be_noticed() -> None:
    system, matrix = build([[(1, 1), (1, 2)]], 0)
    basis = system.solve().basis.toarray()[1:]
    assert (matrix @ np.abs(basis)).any()  # x = -y: forgetting the sign violates the equation


@pytest.mark.parametrize("modulus", [0, 2])
def test_combination_of_one_term_adds_no_unknown(modulus: int) -> None:
    system = LinearSystem(modulus)
    x = system.fresh((3,))
    assert (system.combination((1, x), (1, np.zeros(3, dtype=np.int64))) == x).all()
    assert system.unknowns == 4
    assert len(null_space([{1: 1, 2: 1, 3: 1}], range(1, 4), modulus)) == 2


@pytest.mark.parametrize("modulus", [0, 2])
@settings(max_examples=200, deadline=None)
@given(
    columns=st.lists(st.dictionaries(st.integers(0, 5), st.sampled_from([-3, -2, -1, 1, 2, 3]), max_size=4), max_size=8)
)
def test_vectors_that_are_no_combination_of_those_before(modulus: int, columns: list[dict[int, int]]) -> None:
    def rank(vectors: list[dict[int, int]]) -> int:
        return 6 - len(null_space([dict(v) for v in vectors], range(6), modulus))

    ranks = [rank(columns[:k]) for k in range(len(columns) + 1)]
    matrix = np.zeros((6, len(columns)))
    for number, column in enumerate(columns):
        matrix[list(column), number] = list(column.values())
    assert independent_columns(csc_array(matrix), modulus) == [
        k for k in range(len(columns)) if ranks[k + 1] > ranks[k]
    ]
