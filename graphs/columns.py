"""Distinct columns of integer tables: sorting one number a column is ten times as fast as sorting columns."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.int64]
Integers = TypeVar("Integers", bound=np.signedinteger)
LARGEST = 2**62


def packed(table: NDArray[np.signedinteger]) -> Table:
    """One number for every column of `[rows, columns]`, in the order of the columns."""
    found, spans = np.zeros(table.shape[1], np.int64), 1
    for row in table:
        low = int(row.min(initial=0))
        span = int(row.max(initial=0)) - low + 1
        if spans * span >= LARGEST:  # there are far fewer distinct numbers than that: number them
            found = ranks(found)
            spans = int(found.max(initial=0)) + 1
        found, spans = found * span + (row - low), spans * span
    return found


def ranks(values: NDArray) -> Table:
    """The place of every value among the distinct ones."""
    return np.unique(values, return_inverse=True)[1].ravel().astype(np.int64)


def unique_columns(table: NDArray[Integers]) -> NDArray[Integers]:
    """The distinct columns of `[rows, columns]` in order."""
    return table[:, np.unique(packed(table), return_index=True)[1]]


def count_columns(table: NDArray[Integers]) -> tuple[NDArray[Integers], Table, Table]:
    """The distinct columns in order, for every column the number of its own, and how often each occurs."""
    _, first, inverse, number = np.unique(packed(table), return_index=True, return_inverse=True, return_counts=True)
    return table[:, first], inverse.ravel().astype(np.int64), number


def equal_columns(table: NDArray[np.signedinteger]) -> tuple[Table, Table, Table]:
    """An order that brings equal columns of `[rows, columns]` together, where each kind starts in it, and how often it occurs."""
    found = packed(table)
    order = np.argsort(found)
    found = found[order]
    starts = np.flatnonzero(np.append(True, found[1:] != found[:-1])[: len(found)])
    return order, starts, np.diff(np.append(starts, len(found)))
