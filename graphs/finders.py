"""Where factors beyond permutations come from: functions that read a labelled program and return factors.

A finder is registered with `@finder` in any module of `graphs.scalings`; nothing else has to be edited.
"""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from graphs.factors import AxisMap, Factor, PermutationFactor
from graphs.labels import Labelling
from graphs.permutations import Structure
from graphs.program import Program
from graphs.scalings.shifts import Shifts


@dataclass(frozen=True)
class Context:
    """What a finder may read.

    Args:
        program: the traced module.
        labelling: raw labels and neurons of every value.
        structure: the permutation part: relations and levels.
        axes: gathers tensors as labels move.
        permutations: the permutation factors, one a level, outer levels first.
    """

    program: Program
    labelling: Labelling
    structure: Structure
    axes: AxisMap
    permutations: tuple[PermutationFactor, ...]

    @cached_property
    def shifts(self) -> Shifts:
        """How shifts of the program's tensors go through it."""
        return Shifts(self.program)


Finder = Callable[[Context], Sequence[Factor]]
_FINDERS: list[tuple[int, str, Finder]] = []


def finder(order: int) -> Callable[[Finder], Finder]:
    """Register a finder; its factors are applied after those of finders with a smaller order."""

    def add(function: Finder) -> Finder:
        _FINDERS.append((order, f"{function.__module__}.{function.__qualname__}", function))
        return function

    return add


@cache
def finders() -> tuple[Finder, ...]:
    """Every registered finder, in order."""
    import graphs.scalings as package

    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(info.name)
    return tuple(function for _, _, function in sorted(_FINDERS, key=lambda entry: entry[:2]))
