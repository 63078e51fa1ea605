"""Tensor-train algebra against the dense matrix."""

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelzoo.blocks.tensor_train import TTLinear, bond_ranks, dense, factorise, multiply

FACTORS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4)


def random_cores(sizes: list[tuple[int, int]], rank: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ranks = [1, *[rank] * (len(sizes) - 1), 1]
    return [
        torch.randn(ranks[k], n, m, ranks[k + 1], generator=generator, dtype=torch.double)
        for k, (n, m) in enumerate(sizes)
    ]


@settings(max_examples=40, deadline=None)
@given(FACTORS, st.integers(1, 3))
def test_multiplication_equals_that_of_the_dense_matrix(sizes: list[tuple[int, int]], rank: int) -> None:
    cores = random_cores(sizes, rank)
    x = torch.randn(3, prod(m for _, m in sizes), dtype=torch.double, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(multiply(cores, x), x @ dense(cores).T, rtol=1e-9, atol=1e-10)


def test_entry_is_the_product_of_the_matrices_at_its_index() -> None:
    cores = random_cores([(2, 3), (3, 2), (2, 2)], rank=3)
    matrix = dense(cores)
    for row, column in (((0, 0, 0), (0, 0, 0)), ((1, 2, 1), (2, 1, 0)), ((0, 1, 1), (1, 0, 1))):
        i = (row[0] * 3 + row[1]) * 2 + row[2]
        j = (column[0] * 2 + column[1]) * 2 + column[2]
        chain = torch.linalg.multi_dot([core[:, n, m] for core, n, m in zip(cores, row, column, strict=True)])
        torch.testing.assert_close(matrix[i, j], chain[0, 0])


def test_bond_gauge_leaves_the_matrix_unchanged() -> None:
    cores = random_cores([(2, 2), (3, 3), (2, 2)], rank=3)
    gauge = torch.randn(3, 3, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    moved = [
        torch.einsum("rnms,st->rnmt", cores[0], gauge),
        torch.einsum("rs,snmt->rnmt", torch.linalg.inv(gauge), cores[1]),
        cores[2],
    ]
    torch.testing.assert_close(dense(moved), dense(cores), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("size", [1, 7, 10, 27, 30, 64, 784])
@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_factorise(size: int, parts: int) -> None:
    factors = factorise(size, parts)
    assert len(factors) == parts
    assert prod(factors) == size
    assert list(factors) == sorted(factors, reverse=True)


def test_factors_are_as_equal_as_divisors_allow() -> None:
    assert factorise(64, 3) == (4, 4, 4)
    assert factorise(784, 2) == (28, 28)
    assert factorise(30, 3) == (5, 3, 2)


def test_bonds_are_no_larger_than_a_matrix_can_use() -> None:
    assert bond_ranks((2, 2, 2), (2, 2, 2), 100) == (1, 4, 4, 1)
    assert bond_ranks((4, 4, 4), (4, 4, 4), 3) == (1, 3, 3, 1)


def test_layer_starts_with_the_variance_of_a_dense_layer() -> None:
    torch.manual_seed(0)
    variances = [float(dense(list(TTLinear((4, 4, 4), (4, 4, 4), 4).cores)).var()) for _ in range(40)]
    assert sum(variances) / 40 == pytest.approx(1 / (3 * 64), rel=0.4)


def test_layer_has_far_fewer_parameters_than_dense() -> None:
    layer = TTLinear((4, 4, 4), (4, 4, 4), 4)
    assert sum(core.numel() for core in layer.cores) == 4 * 4 * (4 + 16 + 4)
