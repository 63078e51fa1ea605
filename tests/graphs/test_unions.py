"""Union-find over arrays of pairs against scipy's connected components."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from graphs.unions import Unions

PAIRS = st.lists(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=9), max_size=4)


@settings(max_examples=200, deadline=None)
@given(PAIRS)
def test_classes_are_the_connected_components_numbered_by_their_first_member(
    pairs: list[list[tuple[int, int]]],
) -> None:
    unions = Unions(12)
    for piece in pairs:
        unions.join(*np.array(piece, dtype=np.int64).reshape(-1, 2).T)
    row, column = np.array([pair for piece in pairs for pair in piece], dtype=np.int64).reshape(-1, 2).T
    expected = connected_components(coo_array((np.ones(len(row)), (row, column)), (12, 12)), directed=False)[1]
    assert unions.classes().tolist() == expected.tolist()
    assert list(dict.fromkeys(unions.classes().tolist())) == list(range(expected.max() + 1))


@pytest.mark.parametrize("step", [1, -1])
def test_a_chain_joined_at_once_is_one_class(step: int) -> None:
    unions, chain = Unions(50_001), np.arange(50_000)[::step]  # link by link it would take 50,000 rounds
    unions.join(chain, chain + 1)
    assert not unions.classes().any()
