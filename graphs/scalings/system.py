"""Sparse homogeneous linear systems over the reals or over GF(2), as the scaling rules write them down.

Unknowns are integers handed out in arrays; the unknown 0 is the constant zero. Nearly every equation has one term (a
quantity that must be fixed) or two (a quantity that is carried on, or cancelled in a contraction), so the solver first
eliminates those by connected components of a signed graph, and only what is left goes through exact elimination, one
small connected block at a time. Blocks of the same shape (one a neuron, usually) are eliminated once.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from graphs.columns import unique_columns
from graphs.scalings.elimination import Vector, null_space

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Solution:
    """The null space of a system.

    Args:
        basis: `[unknown, generator]`, a sparse matrix whose columns span the null space; row 0 is zero.
    """

    basis: csr_array


class LinearSystem:
    """Collects equations `Σ_k coefficient_k x_k = 0` and solves them.

    Args:
        modulus: 0 for the reals, 2 for signs (x = 1 means "flipped").
    """

    def __init__(self, modulus: int = 0) -> None:
        self.modulus = modulus
        self.unknowns = 1
        self._rows: list[tuple[Ids, NDArray[np.int64]]] = []  # ids and coefficients, both [equation, term]

    def fresh(self, shape: tuple[int, ...]) -> Ids:
        """New unknowns in an array of that shape."""
        count = int(np.prod(shape))
        ids = np.arange(self.unknowns, self.unknowns + count, dtype=np.int64).reshape(shape)
        self.unknowns += count
        return ids

    def equation(self, *terms: tuple[int, Ids]) -> None:
        """Require `Σ coefficient · x = 0` entry by entry, the arrays broadcast against each other."""
        arrays = np.broadcast_arrays(*(ids for _, ids in terms))
        ids = np.stack([array.ravel() for array in arrays], axis=1)
        coefficients = np.broadcast_to(np.array([c for c, _ in terms], dtype=np.int64), ids.shape)
        self._rows.append((ids, coefficients))

    def zero(self, ids: Ids) -> None:
        """Require x = 0."""
        self.equation((1, np.unique(ids)))

    def equal(self, left: Ids, right: Ids) -> None:
        """Require left = right entry by entry."""
        self.equation((1, left), (-1, right))

    def combination(self, *terms: tuple[int, Ids]) -> Ids:
        """Unknowns equal to `Σ coefficient · x`; a sum of one plain term is that term itself."""
        live = [(c, ids) for c, ids in terms if ids.any() and (not self.modulus or c % self.modulus)]
        shape = np.broadcast_shapes(*(ids.shape for _, ids in terms))
        if not live:
            return np.zeros(shape, dtype=np.int64)
        if len(live) == 1 and (live[0][0] == 1 or self.modulus == 2):
            return np.broadcast_to(live[0][1], shape)
        result = self.fresh(shape)
        self.equation((-1, result), *live)
        return result

    def solve(self) -> Solution:
        """The null space."""
        width = max((ids.shape[1] for ids, _ in self._rows), default=1)
        ids = np.zeros((sum(len(rows) for rows, _ in self._rows), width), dtype=np.int64)
        coefficients = np.zeros_like(ids)
        start = 0
        for rows, factors in self._rows:
            ids[start : start + len(rows), : rows.shape[1]] = rows
            coefficients[start : start + len(rows), : rows.shape[1]] = factors
            start += len(rows)
        representative = np.arange(self.unknowns, dtype=np.int64)
        sign = np.ones(self.unknowns, dtype=np.int64)
        while True:
            ids, coefficients = self._substitute(ids, coefficients, representative, sign)
            simple = self._simple(ids, coefficients)
            if not simple.any():
                break
            self._eliminate(ids[simple], coefficients[simple], representative, sign)
            ids, coefficients = ids[~simple], coefficients[~simple]
        return Solution(self._basis(ids, coefficients, representative, sign))

    def _substitute(
        self, ids: Ids, coefficients: NDArray[np.int64], representative: Ids, sign: NDArray[np.int64]
    ) -> tuple[Ids, NDArray[np.int64]]:
        """Rewrite the equations in representatives, add up equal terms, drop what has vanished."""
        coefficients = coefficients * sign[ids]
        ids = representative[ids]
        order = np.argsort(ids, axis=1, kind="stable")
        ids, coefficients = np.take_along_axis(ids, order, 1), np.take_along_axis(coefficients, order, 1)
        for column in range(ids.shape[1] - 1, 0, -1):
            same = ids[:, column] == ids[:, column - 1]
            coefficients[:, column - 1] += np.where(same, coefficients[:, column], 0)
            coefficients[same, column] = 0
        if self.modulus:
            coefficients %= self.modulus
        coefficients[ids == 0] = 0
        ids = np.where(coefficients == 0, 0, ids)
        order = np.argsort(ids == 0, axis=1, kind="stable")  # living terms first
        ids, coefficients = np.take_along_axis(ids, order, 1), np.take_along_axis(coefficients, order, 1)
        living = coefficients.any(axis=1)
        rows = unique_columns(np.concatenate([ids[living].T, coefficients[living].T])).T
        return rows[:, : ids.shape[1]], rows[:, ids.shape[1] :]

    @staticmethod
    def _simple(ids: Ids, coefficients: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Equations `x = 0` and `x = ±y`."""
        terms = (coefficients != 0).sum(axis=1)
        if ids.shape[1] < 2:
            return terms == 1
        return (terms == 1) | ((terms == 2) & (abs(coefficients[:, 0]) == abs(coefficients[:, 1])))

    def _eliminate(
        self, ids: Ids, coefficients: NDArray[np.int64], representative: Ids, sign: NDArray[np.int64]
    ) -> None:
        """Merge unknowns along simple equations: components of the graph on (unknown, sign)."""
        pair = np.zeros((len(ids), 2), dtype=np.int64)
        pair[:, : ids.shape[1]] = ids[:, :2]
        negative = np.zeros(len(ids), dtype=np.int64)
        if ids.shape[1] > 1 and not self.modulus:
            negative = np.where(coefficients[:, 1] != 0, coefficients[:, 0] * coefficients[:, 1] > 0, 0).astype(
                np.int64
            )
        used, local = np.unique(np.append(pair.ravel(), 0), return_inverse=True)
        left, right = local[:-1].reshape(-1, 2).T
        count = len(used)
        # node x stands for +x, node count + x for -x; zero is its own negative
        starts = np.concatenate([left, left + count, [0]])
        ends = np.concatenate([right + negative * count, right + (1 - negative) * count, [count]])
        graph = coo_array((np.ones(len(starts)), (starts, ends)), shape=(2 * count, 2 * count))
        _, component = connected_components(graph, directed=False)
        plus, minus = component[:count], component[count:]
        first = np.full(2 * count, count, dtype=np.int64)
        np.minimum.at(first, plus, np.arange(count))  # the smallest unknown of a component represents it
        np.minimum.at(first, minus, np.arange(count))
        leader = first[plus]
        flipped = (plus[leader] != plus) & (not self.modulus)
        fixed = plus == plus[0] if self.modulus else plus == minus
        new_representative = np.where(fixed, 0, used[leader])
        new_sign = np.where(flipped, -1, 1)
        image, image_sign = np.arange(self.unknowns, dtype=np.int64), np.ones(self.unknowns, dtype=np.int64)
        image[used], image_sign[used] = new_representative, new_sign
        sign *= image_sign[representative]
        representative[:] = image[representative]

    def _basis(
        self, ids: Ids, coefficients: NDArray[np.int64], representative: Ids, sign: NDArray[np.int64]
    ) -> csr_array:
        """Null-space basis: exact elimination of the remaining blocks, and one generator a free representative."""
        rows: list[int] = []
        columns: list[int] = []
        values: list[float] = []
        generators = 0
        coupled = np.unique(ids[coefficients != 0])
        if len(coupled):
            equation, term = np.nonzero(coefficients)
            member = np.searchsorted(coupled, ids[equation, term])
            incidence = coo_array((np.ones(len(member)), (equation, member)), shape=(len(ids), len(coupled)))
            _, block = connected_components((incidence.T @ incidence).tocsr(), directed=False)
            by_block = np.argsort(block[member[np.searchsorted(equation, np.arange(len(ids)))]], kind="stable")
            block_of_row = block[member[np.searchsorted(equation, by_block)]]
            cache: dict[bytes, list[Vector]] = {}
            for rows_of_block in np.split(by_block, np.flatnonzero(np.diff(block_of_row)) + 1):
                unknowns, local = np.unique(np.append(ids[rows_of_block], 0), return_inverse=True)  # 0 is local 0
                table = np.stack([local[:-1].reshape(len(rows_of_block), -1), coefficients[rows_of_block]], axis=2)
                table = table[np.lexsort(table.reshape(len(table), -1).T[::-1])]
                key = table.tobytes() + bytes(str(table.shape), "ascii")
                if key not in cache:
                    equations = [{k: c for k, c in row if c} for row in table.tolist()]
                    cache[key] = null_space(equations, range(1, len(unknowns)), self.modulus)
                for vector in cache[key]:
                    rows += unknowns[list(vector)].tolist()
                    columns += [generators] * len(vector)
                    values += map(float, vector.values())
                    generators += 1
        free = np.setdiff1d(np.unique(representative), np.append(coupled, 0))
        rows += free.tolist()
        columns += range(generators, generators + len(free))
        values += [1.0] * len(free)
        generators += len(free)
        of_representative = coo_array((values, (rows, columns)), shape=(self.unknowns, generators)).tocsr()
        basis = of_representative[representative].multiply(sign[:, None]).tocsr()
        return csr_array(basis)
