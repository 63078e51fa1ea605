"""The squared norm of tensors that translations shift and scales multiply, in closed form.

Translations add D τ to the entries x, then scales s multiply them, some with an offset o (the ε of a variance):
Σ_k ((x_k + o_k + (D τ)_k) exp(E_k · s) − o_k)². This form asks that an entry is shifted by one unknown of every translation
at most, by an amount that does not depend on what is shifted; D is then found by running each translation on ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array, vstack
from torch import Tensor

from graphs.scalings.scaled_norm import Part
from graphs.scalings.translations import TranslationFactor

ROUNDING = 1e-9  # of the largest shift: what is less is none

Array = NDArray[Any]


class ShiftedNorm:
    """Σ |x|² over tensors that are not just multiplied, at the tensors given last, and its derivatives there.

    `far` is to be set as long as the least norm is far: the Hessian, which may be indefinite there, is then convexified.

    Args:
        parts: of the exponents of all tensors, from `exponents_of`.
        factors: translations with the number of their first unknown.
        tensors: all that the translations write or read, and those with an offset.
        offsets: by name.
        unknowns: how many there are, log-scales and shifts.
    """

    def __init__(
        self, parts: Mapping[str, Sequence[Part]], factors: Sequence[tuple[TranslationFactor, int]],
        tensors: Mapping[str, Tensor], offsets: Mapping[str, float], unknowns: int,
    ) -> None:  # fmt: skip
        self.factors, self.unknowns = factors, unknowns
        self.names = sorted({*offsets, *(name for factor, _ in factors for name in factor.writes)} & set(tensors))
        self.offsets = np.concatenate([np.empty(0), *(np.full(tensors[n].numel(), offsets.get(n, 0.0)) for n in self.names)])  # fmt: skip
        rows = [_entries(parts.get(name, ()), tensors[name].shape, unknowns) for name in self.names]
        self.rows: Any = csr_array(vstack([csr_array((0, unknowns)), *rows]))
        self.columns: Any = csr_array(self.rows.T)
        self.far = True
        self.places: list[tuple[Array, Array]] = []  # for every factor the entries that it shifts, and by which unknown
        self.closed = not any(tensors[name].is_complex() for name in self.names)
        elsewhere = dict(tensors)
        for factor, _ in factors if self.closed else ():
            elsewhere.update(factor.apply(factor.sample(torch.Generator().manual_seed(1)), elsewhere))
        for factor, start in factors if self.closed else ():
            found = self.alone(factor, tensors, elsewhere)
            if found is None:
                self.closed = False
                return
            self.places.append((found[0], start + found[1]))
        if self.closed:
            self.stand(tensors)

    def alone(
        self, factor: TranslationFactor, tensors: Mapping[str, Tensor], elsewhere: Mapping[str, Tensor]
    ) -> tuple[Array, Array] | None:
        """The entries that a translation shifts and the unknown that shifts each.

        None if some are shifted by several unknowns, or by another amount elsewhere along the translations.
        """
        every = torch.arange(factor.count, dtype=torch.float64)
        ones, numbered = (self.shift(factor, amount, tensors) for amount in (torch.ones_like(every), every + 1))
        entries = np.flatnonzero(abs(ones) > ROUNDING * abs(ones).max())
        column = np.round(numbered[entries] / ones[entries] - 1).astype(np.int64).clip(0, factor.count - 1)
        random = factor.sample(torch.Generator().manual_seed(0))
        expected = np.zeros_like(ones)
        expected[entries] = ones[entries] * random.numpy()[column]
        gap = max(abs(self.shift(factor, random, place) - expected).max() for place in (tensors, elsewhere))
        return (entries, column) if gap <= ROUNDING * abs(expected).max() else None

    def shift(self, factor: TranslationFactor, amount: Tensor, tensors: Mapping[str, Tensor]) -> Array:
        """By what all entries are shifted."""
        after = factor.apply(amount, tensors)
        changes = [
            after[name] - tensors[name] if name in after else torch.zeros_like(tensors[name]) for name in self.names
        ]
        return torch.cat([change.flatten() for change in changes]).numpy()

    def stand(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the derivatives at these tensors from now on."""
        self.entries = torch.cat([torch.zeros(0), *(tensors[name].flatten() for name in self.names)]).double().numpy()
        self.grown = self.entries + self.offsets  # what scales multiply
        self.level = float(self.entries @ self.entries)
        value, row, column = [np.empty(0)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for (factor, _), (entries, unknown) in zip(self.factors, self.places, strict=True):
            value.append(self.shift(factor, torch.ones(factor.count, dtype=torch.float64), tensors)[entries])
            row.append(entries)
            column.append(unknown)
        places = (np.concatenate(row), np.concatenate(column))
        self.shifts: Any = csr_array((np.concatenate(value), places), shape=(len(self.entries), self.unknowns))
        self.turned: Any = csr_array(self.shifts.T)

    def value(self, step: Array) -> float:
        """The squared norm after a step."""
        moved = (self.entries + self.offsets + self.shifts @ step) * np.exp(self.rows @ step) - self.offsets
        return float(moved @ moved)

    def slope(self) -> Array:
        """The gradient, `[unknown]`."""
        return 2 * (self.columns @ (self.entries * self.grown)) + 2 * (self.turned @ self.entries)

    def curvature(self, direction: Array) -> Array:
        """The Hessian times a vector `[unknown]` or several `[unknown, n]`, or what stands for it far away."""
        column = [-1, *[1] * (direction.ndim - 1)]
        alone, both = (weight.reshape(column) for weight in self._weights())
        scaled, shifted = self.rows @ direction, self.shifts @ direction
        return self.columns @ (alone * scaled + both * shifted) + self.turned @ (both * scaled + 2 * shifted)

    def matrix(self) -> csr_array:
        """The same as a sparse matrix."""
        alone, both = self._weights()
        scaled: Any = self.columns @ diags_array(alone) @ self.rows
        coupled: Any = self.columns @ diags_array(both) @ self.shifts
        return csr_array(scaled + coupled + coupled.T + 2 * (self.turned @ self.shifts))

    def _weights(self) -> tuple[Array, Array]:
        """Of every entry: what couples scales with scales, and scales with shifts.

        Far from the least norm half of the latter is left out, which makes the Hessian positive semi-definite.
        """
        both = self.entries + self.grown
        if self.far:
            return 2 * np.maximum(self.grown * both, self.grown**2), both
        return 2 * self.grown * both, 2 * both


def _entries(parts: Sequence[Part], shape: Sequence[int], unknowns: int) -> csr_array:
    """The exponent of every entry of a tensor, `[entry, unknown]`."""
    total: Any = csr_array((int(np.prod(shape)), unknowns))
    for part in parts:
        kind = part.kind.reshape([size if d in part.dims else 1 for d, size in enumerate(shape)])
        total = total + part.rows[np.broadcast_to(kind, shape).ravel()]
    return csr_array(total)
