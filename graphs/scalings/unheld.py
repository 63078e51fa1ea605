"""Scales that nothing holds: before a batch norm weights may shrink for ever, and the least norm would be zero.

A direction d of log-scales shrinks the entry with exponent row E_r by exp(E_r · d). If E d ≤ 0 for all entries and not
everywhere 0, the norm has no least point along d. A linear program finds the entries R that some such d shrinks; with
−2 Σ_{r ∈ R} E_r · s added to the squared norm there is one. That term is a character of the group, so the point is the
same for the whole orbit, and R depends on the group alone.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array, eye_array, hstack, vstack
from torch import Tensor

from graphs.factors import Factor
from graphs.scalings.diagonal import DiagonalFactor, Exponent

ZERO = 1e-9


def unheld(factors: Sequence[Factor]) -> Tensor:
    """Σ_{r ∈ R} E_r over distinct rows, `[unknowns]`: 0 at every unknown that is no log-scale.

    Args:
        factors: non-compact factors, whose parameters follow one another.
    """
    sizes = [factor.identity().numel() for factor in factors]
    total = np.zeros(sum(sizes))
    rows = exponent_rows(factors, np.cumsum([0, *sizes]))
    if rows.shape[0]:
        count, width = rows.shape
        shrinks: Any = csr_array(hstack([rows, eye_array(count)]))  # E d + t ≤ 0 with 0 ≤ t ≤ 1 as large as can be
        bounds = [(None, None)] * width + [(0, 1)] * count
        gain = np.concatenate([np.zeros(width), -np.ones(count)])
        found: Any = linprog(gain, A_ub=shrinks, b_ub=np.zeros(count), bounds=bounds, method="highs")
        if not found.success:
            raise ArithmeticError(f"the linear program of unheld scales failed: {found.message}")
        total = np.asarray(rows[found.x[width:] > ZERO].sum(0), np.float64).ravel()
    return torch.from_numpy(total)


def exponent_rows(factors: Sequence[Factor], starts: NDArray[np.int64]) -> csr_array:
    """The distinct exponents of all entries of tensors, `[row, unknown]`."""
    terms: dict[str, list[tuple[Exponent, int]]] = defaultdict(list)
    for factor, start in zip(factors, starts, strict=False):
        if isinstance(factor, DiagonalFactor) and factor.question == "positive":
            for term in factor.exponents:
                if not term.additive:
                    terms[term.tensor].append((term, int(start)))
    distinct: set[tuple[tuple[int, float], ...]] = set()
    for present in terms.values():
        kinds, tables = [], []
        for term, start in present:
            row = [
                tuple(sorted((start + g, c) for g, c in zip(index, coefficient, strict=True) if c))
                for index, coefficient in zip(term.index.tolist(), term.coefficient.tolist(), strict=True)
            ]
            names = {entry: number for number, entry in enumerate(dict.fromkeys(row))}
            tables.append(list(names))
            kinds.append(np.array([names[entry] for entry in row]).reshape(term.shape))
        together = np.stack([kind.ravel() for kind in np.broadcast_arrays(*kinds)], 1)
        for combination in np.unique(together, axis=0).tolist():
            summed: dict[int, float] = defaultdict(float)
            for table, kind in zip(tables, combination, strict=True):
                for generator, coefficient in table[kind]:
                    summed[generator] += coefficient
            distinct.add(tuple(sorted((g, c) for g, c in summed.items() if abs(c) > ZERO)))
    rows = sorted(distinct - {()})
    blocks = [csr_array(([c for _, c in row], ([0] * len(row), [g for g, _ in row])), shape=(1, int(starts[-1]))) for row in rows]  # fmt: skip
    return csr_array(vstack(blocks)) if blocks else csr_array((0, int(starts[-1])))
