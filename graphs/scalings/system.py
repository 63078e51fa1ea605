"""Sparse homogeneous linear systems over the reals or over GF(2), as the scaling rules write them down.

Unknowns are integers handed out in arrays; the unknown 0 is the constant zero. Nearly every equation has one term (a
quantity that must be fixed) or two (a quantity that is carried on, or cancelled in a contraction), so the solver first
eliminates those by connected components of a signed graph, and only what is left goes through exact elimination, one
small connected block at a time. Blocks of the same shape (one a neuron, usually) are eliminated once. Equations are kept
by their number of terms, in 32 bits, and rewritten a few at a time: a large network has hundreds of thousands.
"""

from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from graphs.columns import unique_columns
from graphs.scalings.elimination import Vector, null_space
from graphs.unions import Unions

Ids = NDArray[np.int64]
Terms = NDArray[np.int32]  # unknowns or coefficients, `[equation, term]`
ROWS = 2**14  # equations that are rewritten at a time


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
        self._pieces: dict[int, list[tuple[Terms, tuple[int, ...]]]] = {}  # by width: ids, a coefficient a term

    def fresh(self, shape: tuple[int, ...]) -> Ids:
        """New unknowns in an array of that shape."""
        count = int(np.prod(shape))
        ids = np.arange(self.unknowns, self.unknowns + count, dtype=np.int64).reshape(shape)
        self.unknowns += count
        return ids

    def equation(self, *terms: tuple[int, Ids]) -> None:
        """Require `Σ coefficient · x = 0` entry by entry, the arrays broadcast against each other."""
        arrays = np.broadcast_arrays(*(ids for _, ids in terms))
        ids = np.empty((arrays[0].size, len(terms)), dtype=np.int32)
        for column, entries in enumerate(arrays):
            ids[:, column] = entries.ravel()
        self._pieces.setdefault(len(terms), []).append((ids, tuple(c for c, _ in terms)))

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
        """The null space; the equations are gone afterwards."""
        representative = np.arange(self.unknowns, dtype=np.int32)
        sign = np.ones(self.unknowns, dtype=np.int32)
        tables: dict[int, tuple[Terms, Terms]] = {}
        busy = True
        widths = sorted(self._pieces)  # the short ones shorten the others
        while busy:
            busy = False
            for width in widths:
                table = tables.pop(width) if width in tables else self._table(width)
                ids, coefficients = self._substitute(*table, representative, sign)
                simple = self._simple(ids, coefficients)
                if simple.any():
                    self._eliminate(ids[simple], coefficients[simple], representative, sign)
                    busy = True
                tables[width] = ids[~simple], coefficients[~simple]
        left = _padded([tables[width] for width in sorted(tables)])
        return Solution(self._basis(*left, representative, sign))

    def _table(self, width: int) -> tuple[Terms, Terms]:
        """All equations of so many terms, which are let go of."""
        pieces = self._pieces.pop(width)
        coefficients = np.array([factors for _, factors in pieces], dtype=np.int32)
        return np.concatenate([ids for ids, _ in pieces]), coefficients.repeat([len(ids) for ids, _ in pieces], axis=0)

    def _substitute(self, ids: Terms, coefficients: Terms, representative: Terms, sign: Terms) -> tuple[Terms, Terms]:
        """Rewrite the equations in representatives, add up equal terms, drop what has vanished and what repeats."""
        parts = [
            self._rewritten(ids[start : start + ROWS], coefficients[start : start + ROWS], representative, sign)
            for start in range(0, len(ids), ROWS)
        ]
        if not parts:
            return ids, coefficients
        rows = unique_columns(np.concatenate(parts, axis=1)).T
        return rows[:, : ids.shape[1]], rows[:, ids.shape[1] :]

    def _rewritten(self, ids: Terms, coefficients: Terms, representative: Terms, sign: Terms) -> Terms:
        """Some equations in representatives, `[terms and coefficients, equation]`, without those that have vanished."""
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
        ids[coefficients == 0] = 0
        order = np.argsort(ids == 0, axis=1, kind="stable")  # living terms first
        ids, coefficients = np.take_along_axis(ids, order, 1), np.take_along_axis(coefficients, order, 1)
        living = coefficients.any(axis=1)
        return unique_columns(np.concatenate([ids[living].T, coefficients[living].T]))

    @staticmethod
    def _simple(ids: Terms, coefficients: Terms) -> NDArray[np.bool_]:
        """Equations `x = 0` and `x = ±y`."""
        terms = (coefficients != 0).sum(axis=1)
        if ids.shape[1] < 2:
            return terms == 1
        return (terms == 1) | ((terms == 2) & (abs(coefficients[:, 0]) == abs(coefficients[:, 1])))

    def _eliminate(self, ids: Terms, coefficients: Terms, representative: Terms, sign: Terms) -> None:
        """Merge unknowns along simple equations: components of the graph on (unknown, sign)."""
        pair = np.zeros((len(ids), 2), dtype=np.int32)
        pair[:, : ids.shape[1]] = ids[:, :2]
        negative = np.zeros(len(ids), dtype=np.int32)
        if ids.shape[1] > 1 and not self.modulus:
            negative = (coefficients[:, 0] * coefficients[:, 1] > 0).astype(np.int32)
        used, local = np.unique(np.append(pair.ravel(), np.int32(0)), return_inverse=True)
        left, right = local[:-1].astype(np.int32).reshape(-1, 2).T
        count = len(used)
        # node x stands for +x, node count + x for -x; zero is its own negative
        unions = Unions(2 * count)
        unions.join(left, right + negative * count)
        unions.join(left + count, right + (1 - negative) * count)
        unions.join(np.zeros(1, dtype=np.int32), np.full(1, count, dtype=np.int32))
        component = unions.classes()
        plus, minus = component[:count], component[count:]
        first = np.full(2 * count, count, dtype=np.int32)
        every = np.arange(count, dtype=np.int32)
        np.minimum.at(first, plus, every)  # the smallest unknown of a component represents it
        np.minimum.at(first, minus, every)
        leader = first[plus]
        flipped = (plus[leader] != plus) & (not self.modulus)
        fixed = plus == plus[0] if self.modulus else plus == minus
        new_representative = np.where(fixed, 0, used[leader])
        new_sign = np.where(flipped, -1, 1)
        image, image_sign = np.arange(self.unknowns, dtype=np.int32), np.ones(self.unknowns, dtype=np.int32)
        image[used], image_sign[used] = new_representative, new_sign
        sign *= image_sign[representative]
        representative[:] = image[representative]

    def _basis(self, ids: Terms, coefficients: Terms, representative: Terms, sign: Terms) -> csr_array:
        """Null-space basis: exact elimination of the remaining blocks, and one generator a free representative."""
        rows, columns, values = array("i"), array("i"), array("d")
        generators = 0
        coupled = np.unique(ids[coefficients != 0])
        cache: dict[bytes, list[Vector]] = {}
        for rows_of_block in self._blocks(ids, coefficients, coupled):
            unknowns, local = np.unique(np.append(ids[rows_of_block], np.int32(0)), return_inverse=True)  # 0 is local 0
            own = local[:-1].astype(np.int32).reshape(len(rows_of_block), -1)
            table = np.stack([own, coefficients[rows_of_block]], axis=2)
            table = table[np.lexsort(table.reshape(len(table), -1).T[::-1])]
            key = table.tobytes() + bytes(str(table.shape), "ascii")
            if key not in cache:
                equations = ({k: c for k, c in row.tolist() if c} for row in table)
                cache[key] = null_space(equations, range(1, len(unknowns)), self.modulus)
            for vector in cache[key]:
                rows.extend(unknowns[list(vector)].tolist())
                columns.extend([generators] * len(vector))
                values.extend(map(float, vector.values()))
                generators += 1
        free = np.setdiff1d(np.unique(representative), np.append(coupled, 0))
        rows.extend(free.tolist())
        columns.extend(range(generators, generators + len(free)))
        values.extend([1.0] * len(free))
        generators += len(free)
        entries = np.array(values), (np.array(rows, dtype=np.int32), np.array(columns, dtype=np.int32))
        basis = csr_array(coo_array(entries, shape=(self.unknowns, generators)).tocsr()[representative])
        basis.data *= np.repeat(sign, np.diff(basis.indptr))
        return basis

    @staticmethod
    def _blocks(ids: Terms, coefficients: Terms, coupled: Terms) -> list[Ids]:
        """The numbers of the equations in every connected block, blocks in the order of their first unknowns."""
        member = np.searchsorted(coupled, ids).astype(np.int32)
        unions = Unions(len(coupled))
        for column in range(1, ids.shape[1]):
            used = coefficients[:, column] != 0
            unions.join(member[used, 0], member[used, column])
        block = unions.classes()[member[:, 0]] if len(ids) else np.zeros(0, np.int32)
        order = np.argsort(block, kind="stable")
        return [part for part in np.split(order, np.flatnonzero(np.diff(block[order])) + 1) if len(part)]


def _padded(tables: list[tuple[Terms, Terms]]) -> tuple[Terms, Terms]:
    """Equations of several widths in one table, without repeats."""
    width = max((ids.shape[1] for ids, _ in tables), default=1)
    filled = [[np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in table] for table in tables]
    rows = unique_columns(
        np.concatenate([np.zeros((0, 2 * width), np.int32), *(np.hstack(pair) for pair in filled)]).T
    ).T
    return rows[:, :width], rows[:, width:]
