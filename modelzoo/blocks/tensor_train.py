"""Tensor trains: matrices and tensors as chains of small cores.

A tensor-train matrix of size (n_1 ⋯ n_d) × (m_1 ⋯ m_d) is a list of cores G_k `[r_{k-1}, n_k, m_k, r_k]` with
r_0 = r_d = 1; its entry at the row multi-index (i_1, …, i_d) and column multi-index (j_1, …, j_d) is
G_1[i_1, j_1] G_2[i_2, j_2] ⋯ G_d[i_d, j_d], a product of `r_{k-1} × r_k` matrices. Inserting A A⁻¹ between two cores
changes nothing: every bond carries GL(r_k).
"""

from collections.abc import Sequence
from math import prod

import torch
from einops import rearrange
from torch import Tensor, nn


def factorise(size: int, parts: int) -> tuple[int, ...]:
    """`parts` integers whose product is `size`, as equal as its divisors allow, largest first.

    >>> factorise(64, 3), factorise(30, 2), factorise(7, 2)
    ((4, 4, 4), (6, 5), (7, 1))
    """
    found = []
    for left in range(parts, 1, -1):
        smallest = min((d for d in range(1, size + 1) if size % d == 0 and d**left >= size), default=size)
        found.append(smallest)
        size //= smallest
    return tuple(sorted((*found, size), reverse=True))


def bond_ranks(rows: Sequence[int], columns: Sequence[int], rank: int) -> tuple[int, ...]:
    """Sizes r_0, …, r_d of the bonds: `rank`, but nowhere more than a matrix of that size can have."""
    sizes = [n * m for n, m in zip(rows, columns, strict=True)]
    inner = (min(rank, prod(sizes[:k]), prod(sizes[k:])) for k in range(1, len(sizes)))
    return (1, *inner, 1)


def multiply(cores: Sequence[Tensor], x: Tensor) -> Tensor:
    """The tensor-train matrix times vectors, contracted core by core: the dense matrix is never formed.

    Args:
        cores: G_k `[r_{k-1}, n_k, m_k, r_k]`.
        x: `[B, m_1 ⋯ m_d]`.

    Returns:
        `[B, n_1 ⋯ n_d]`.
    """
    state = rearrange(x, "b m -> b 1 m 1")  # [B, rows so far, columns to come, bond]
    for core in cores:
        state = rearrange(state, "b n (m rest) r -> b n rest m r", m=core.shape[2])
        state = torch.einsum("bnxmr,rlms->bnlxs", state, core)
        state = rearrange(state, "b n l rest s -> b (n l) rest s")
    return state.flatten(1)


def dense(cores: Sequence[Tensor]) -> Tensor:
    """The matrix `[n_1 ⋯ n_d, m_1 ⋯ m_d]` that the cores stand for."""
    matrix = cores[0][0]  # [n, m, r]
    for core in cores[1:]:
        product = torch.einsum("nmr,rlks->nlmks", matrix, core)
        matrix = rearrange(product, "n l m k s -> (n l) (m k) s")
    return matrix.squeeze(-1)


class TTLinear(nn.Module):
    """A linear layer whose weight is a tensor-train matrix.

    y = W x + b with W = multiply(cores, ·).

    Args:
        columns: factors m_1, …, m_d of the input size.
        rows: factors n_1, …, n_d of the output size.
        rank: largest bond r_k.

    Shape:
        inputs `[B, m_1 ⋯ m_d]`; outputs `[B, n_1 ⋯ n_d]`.
    """

    def __init__(self, columns: Sequence[int], rows: Sequence[int], rank: int) -> None:
        super().__init__()
        ranks = bond_ranks(rows, columns, rank)
        # an entry of W is a sum of r_1 ⋯ r_{d-1} products; its variance becomes that of torch.nn.Linear, 1/(3 fan-in)
        deviation = (prod(ranks) * 3 * prod(columns)) ** (-0.5 / len(rows))
        self.cores = nn.ParameterList(
            deviation * torch.randn(ranks[k], n, m, ranks[k + 1])
            for k, (n, m) in enumerate(zip(rows, columns, strict=True))
        )
        self.bias = nn.Parameter(torch.empty(prod(rows)).uniform_(-1, 1) / prod(columns) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return multiply(list(self.cores), x) + self.bias
