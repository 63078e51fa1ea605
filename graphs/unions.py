"""Classes of what is tied together: a union-find structure that joins whole arrays of pairs at once."""

import numpy as np
from numpy.typing import NDArray

Members = NDArray[np.signedinteger]


class Unions:
    """Disjoint sets of the numbers below `count`; nothing is kept but a table of parents, in 32 bits.

    Args:
        count: how many numbers.
    """

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count, dtype=np.int32)  # never above the member itself

    def join(self, first: Members, second: Members) -> None:
        """Make one set of those of `first[k]` and `second[k]`, for every k."""
        first, second = self._roots(first.ravel()), self._roots(second.ravel())
        while len(apart := np.flatnonzero(first != second)):
            first, second = first[apart], second[apart]
            np.minimum.at(self._parent, np.maximum(first, second), np.minimum(first, second))
            first, second = self._roots(first), self._roots(second)

    def _roots(self, members: Members) -> NDArray[np.int32]:
        """The smallest member of the set of each; paths are halved on the way."""
        parent = self._parent
        found = parent[members]
        while (found != (above := parent[found])).any():
            parent[members] = parent[found] = parent[above]
            found = parent[members]
        return found

    def classes(self) -> NDArray[np.int32]:
        """The number of the set of every member; sets are numbered by their smallest members."""
        every = np.arange(len(self._parent), dtype=np.int32)
        roots = self._roots(every)
        return (np.cumsum(roots == every, dtype=np.int32) - 1)[roots].astype(np.int32)
