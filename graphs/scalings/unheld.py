"""Scales that nothing holds: before a batch norm weights may shrink for ever, and the least norm would be zero.

A direction d of log-scales shrinks the entry with exponent row E_r by exp(E_r · d). If E d ≤ 0 for all entries and not
everywhere 0, the norm has no least point along d. A linear program finds the entries R that some such d shrinks; with
−2 Σ_{r ∈ R} E_r · s added to the squared norm there is one. That term is a character of the group, so the point is the
same for the whole orbit, and R depends on the group alone.

Where the exponent of an entry is a sum of parts, E_ij = A_i + B_j, all its inequalities hold if and only if
A_i · d ≤ u ≤ −B_j · d for some u: one row an index instead of one an entry.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array, eye_array, hstack, vstack
from torch import Tensor

from graphs.scalings.scaled_norm import Part

ZERO = 1e-9


def unheld(parts: Mapping[str, Sequence[Part]], unknowns: int) -> Tensor:
    """Σ_{r ∈ R} E_r over the entries of every tensor that differ in their exponents, `[unknowns]`.

    Args:
        parts: of the exponents of every tensor, from `exponents_of`.
        unknowns: how many there are; those that are no log-scale get 0.
    """
    total = np.zeros(unknowns)
    groups = [list(own) for own in parts.values()]
    if not groups:
        return torch.from_numpy(total)
    shrinking = _shrinking([[part.rows for part in own] for own in groups])
    for own, shrinks in zip(groups, shrinking, strict=True):
        counts, still = [len(row) for row in shrinks], [int((~row).sum()) for row in shrinks]
        for number, (part, row) in enumerate(zip(own, shrinks, strict=True)):
            others, idle = (int(np.prod([*sizes[:number], *sizes[number + 1 :]])) for sizes in (counts, still))
            total += part.rows.T @ np.where(row, others, others - idle)
    return torch.from_numpy(total)


def _shrinking(groups: list[list[csr_array]]) -> list[list[NDArray[np.bool_]]]:
    """For every row of every part of every tensor whether the largest shrinking direction makes it less than its bound."""
    rows: Any = csr_array(vstack([part for own in groups for part in own]))
    height, width = rows.shape
    bounds, start, level = [], 0, 0  # of every part: by the levels of its tensor, whose sum is 0
    for own in groups:
        for number, part in enumerate(own):
            block = np.arange(start, start + part.shape[0])
            start += part.shape[0]
            last = number == len(own) - 1
            bounds += (
                [(block, level + k, 1.0) for k in range(len(own) - 1)] if last else [(block, level + number, -1.0)]
            )
        level += len(own) - 1
    entries = [(np.full(len(block), sign), block, np.full(len(block), column)) for block, column, sign in bounds]
    sign, row, column = (np.concatenate(x) for x in zip(*entries, strict=True)) if entries else (np.empty(0),) * 3
    levels = csr_array((sign, (row.astype(np.int64), column.astype(np.int64))), shape=(height, level))
    shrinks: Any = csr_array(hstack([rows, levels, eye_array(height)]))  # E d − u + t ≤ 0, 0 ≤ t ≤ 1 as large as can be
    free = [(None, None)] * (width + level)
    gain = np.concatenate([np.zeros(width + level), -np.ones(height)])
    found: Any = linprog(gain, A_ub=shrinks, b_ub=np.zeros(height), bounds=[*free, *[(0, 1)] * height], method="highs")
    if not found.success:
        raise ArithmeticError(f"the linear program of unheld scales failed: {found.message}")
    slack = iter(np.split(found.x[width + level :] > ZERO, np.cumsum([p.shape[0] for own in groups for p in own])[:-1]))
    return [[next(slack) for _ in own] for own in groups]
