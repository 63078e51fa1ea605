"""The squared norm of tensors as a function of log-scales, by what the scales can tell apart.

The exponent of an entry is a sum over independent groups of its dimensions: of a convolution weight `[out, in, 3, 3]`
one number for its `out`, one for its `in`, none for its taps. So with squares summed over the taps, w, and the exponent
rows A of `out` and B of `in`, the squared norm is Σ w_oi exp(2 A_o·s + 2 B_i·s); its gradient and its curvature are
products of w with vectors, and nothing of the size of the weight is made.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array, vstack
from torch import Tensor

from graphs.factors import Factor
from graphs.scalings.diagonal import DiagonalFactor, Exponent

ROUNDED = 9  # decimals of a random projection, by which rows are told apart

Array = NDArray[Any]


@dataclass(frozen=True)
class Part:
    """The exponents of one tensor along some dimensions.

    Args:
        dims: the dimensions, in order.
        kind: for every index of these dimensions the number of its row.
        rows: `[row, unknown]`, all different.
    """

    dims: tuple[int, ...]
    kind: NDArray[np.int64]
    rows: csr_array


def exponents_of(factors: Sequence[Factor]) -> dict[str, list[Part]]:
    """The exponents of every tensor that scales multiply, in parts that share no dimension.

    Args:
        factors: non-compact factors, whose parameters follow one another; those that are no scales have empty columns.
    """
    starts = np.cumsum([0, *(factor.identity().numel() for factor in factors)])
    terms: dict[str, list[tuple[Exponent, csr_array]]] = defaultdict(list)
    for factor, start in zip(factors, starts, strict=False):
        for term in scales_of(factor):
            terms[term.tensor].append((term, _rows_of(term, int(start), int(starts[-1]))))
    project = np.random.default_rng(0).standard_normal((int(starts[-1]), 2))
    return {name: [_part(group, project) for group in _apart(found)] for name, found in terms.items()}


def scales_of(factor: Factor) -> list[Exponent]:
    """The terms by which a factor multiplies tensors with positive numbers."""
    if not isinstance(factor, DiagonalFactor) or factor.question != "positive":
        return []
    return [term for term in factor.exponents if not term.additive]


def _rows_of(term: Exponent, start: int, width: int) -> csr_array:
    """The rows of one term in its shape's order, `[size, unknown]`."""
    row, column = np.nonzero(term.coefficient)
    entries = (term.coefficient[row, column], (row, start + term.index[row, column]))
    return csr_array(entries, shape=(len(term.index), width))


def _apart(terms: list[tuple[Exponent, csr_array]]) -> list[list[tuple[Exponent, csr_array]]]:
    """Terms in groups that share no dimension."""
    groups: list[tuple[set[int], list[tuple[Exponent, csr_array]]]] = []
    for term, rows in terms:
        dims = {d for d, size in enumerate(term.shape) if size > 1}
        touched = [group for group in groups if group[0] & dims]
        groups = [group for group in groups if group not in touched]
        groups.append((dims.union(*(d for d, _ in touched)), [*(t for _, g in touched for t in g), (term, rows)]))
    constant = [t for dims, group in groups if not dims for t in group]
    varying = [group for dims, group in groups if dims] or [[]]
    return [[*varying[0], *constant], *varying[1:]]


def _part(terms: list[tuple[Exponent, csr_array]], project: Array) -> Part:
    """One part from terms along the same dimensions."""
    shape = np.broadcast_shapes(*(term.shape for term, _ in terms))
    places = [np.broadcast_to(np.arange(len(term.index)).reshape(term.shape), shape).ravel() for term, _ in terms]
    rows: Any = sum(rows[place] for (_, rows), place in zip(terms, places, strict=True))
    _, first, kind = np.unique(np.round(rows @ project, ROUNDED), axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)  # rows are numbered as they come, so that distinct ones stay where they are
    dims = tuple(d for d, size in enumerate(shape) if size > 1)
    return Part(dims, np.argsort(order)[kind].reshape([shape[d] for d in dims]), csr_array(rows[first[order]]))


class ScaledNorm:
    """Σ |x|² over tensors along log-scales s, and its derivatives at a point that moves.

    Args:
        parts: of every tensor, from `exponents_of`.
        tensors: where it stands first.
        unknowns: how many there are; columns of those that are no log-scale are empty.
    """

    def __init__(self, parts: Mapping[str, Sequence[Part]], tensors: Mapping[str, Tensor], unknowns: int) -> None:
        self.now = [_squares(tensors[name], own) for name, own in parts.items()]
        blocks = [[part.rows for part in own] for own in parts.values()]
        self.rows: Any = csr_array(vstack([csr_array((0, unknowns)), *(rows for own in blocks for rows in own)]))
        self.columns: Any = csr_array(self.rows.T)
        self.slices: list[list[slice]] = []
        start = 0
        for own in blocks:
            ends = (start + np.cumsum([rows.shape[0] for rows in own])).tolist()
            self.slices.append([slice(*both) for both in pairwise([start, *ends])])
            start = ends[-1]
        self.move(np.zeros(unknowns))

    def weights(self, step: Array) -> list[Array]:
        """The squares of every tensor after a step."""
        grown = np.exp(2 * (self.rows @ step))
        found = []
        for squares, slices in zip(self.now, self.slices, strict=True):
            for axis, where in enumerate(slices):
                squares = squares * _along(grown[where], axis, squares.ndim)
            found.append(squares)
        return found

    def value(self, step: Array) -> float:
        """The squared norm after a step."""
        return float(sum(weights.sum() for weights in self.weights(step)))

    def move(self, step: Array) -> None:
        """Take a step: the derivatives are those there."""
        self.now = self.weights(step)
        self.level = float(sum(weights.sum() for weights in self.now))
        self.sums = np.empty(self.rows.shape[0])
        self.between: list[tuple[slice, slice, Array]] = []  # of two parts of one tensor
        for weights, slices in zip(self.now, self.slices, strict=True):
            for axis, where in enumerate(slices):
                self.sums[where] = _summed(weights, (axis,))
                for other in range(axis + 1, len(slices)):
                    self.between.append((where, slices[other], _summed(weights, (axis, other))))

    def slope(self) -> Array:
        """The gradient, `[unknown]`."""
        return 2 * (self.columns @ self.sums)

    def curvature(self, direction: Array) -> Array:
        """The Hessian times a vector `[unknown]` or several `[unknown, n]`."""
        along = self.rows @ direction
        image = self.sums.reshape(-1, *[1] * (along.ndim - 1)) * along
        for first, second, weights in self.between:
            image[first] += weights @ along[second]
            image[second] += weights.T @ along[first]
        return 4 * (self.columns @ image)

    def coupling(self) -> tuple[Array, Array]:
        """What couples the parts of a tensor as if its squares were a product of their sums: X C Xᵀ of low rank.

        Returns:
            X `[unknown, 2 · pairs]` and C.
        """
        columns, size = [], len(self.between)
        middle = np.zeros((2 * size, 2 * size))
        for number, (first, second, weights) in enumerate(self.between):
            columns += [self.columns[:, first] @ self.sums[first], self.columns[:, second] @ self.sums[second]]
            middle[2 * number, 2 * number + 1] = middle[2 * number + 1, 2 * number] = 4 / weights.sum()
        return np.stack(columns, 1) if columns else np.zeros((self.columns.shape[0], 0)), middle

    def matrix(self) -> csr_array:
        """The Hessian without what couples two parts of a tensor: sparse and positive semi-definite."""
        return csr_array(4 * (self.columns @ diags_array(self.sums) @ self.rows))


def _squares(tensor: Tensor, parts: Sequence[Part]) -> Array:
    """Σ |x|² of the entries that scale alike, one axis a part."""
    squares = tensor.abs().square().numpy()
    named = [d for part in parts for d in part.dims]
    squares = squares.sum(tuple(d for d in range(squares.ndim) if d not in named), keepdims=True)
    squares = squares.transpose(*named, *(d for d in range(squares.ndim) if d not in named))
    squares = squares.reshape([part.kind.size for part in parts])
    for axis, part in enumerate(parts):
        if part.rows.shape[0] < part.kind.size or not _in_order(part.kind):
            found = np.zeros((part.rows.shape[0], *np.delete(squares.shape, axis)))
            np.add.at(found, part.kind.ravel(), np.moveaxis(squares, axis, 0))
            squares = np.moveaxis(found, 0, axis)
    return np.ascontiguousarray(squares)


def _in_order(kind: NDArray[np.int64]) -> bool:
    return bool((kind.ravel() == np.arange(kind.size)).all())


def _along(vector: Array, axis: int, rank: int) -> Array:
    return vector.reshape([-1 if d == axis else 1 for d in range(rank)])


def _summed(weights: Array, kept: tuple[int, ...]) -> Array:
    gone = tuple(d for d in range(weights.ndim) if d not in kept)
    return weights.sum(gone) if gone else weights
