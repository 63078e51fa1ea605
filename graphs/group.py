"""Symmetry groups: a tuple of factors, read off one program."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from torch import Tensor

from graphs.elements import GroupElement
from graphs.factors import AxisMap, Factor, PermutationFactor, Slot, Tensors
from graphs.labels import Labelling
from graphs.permutations import Structure
from graphs.program import Program
from modelzoo.errors import UnknownNameError, UserError

__all__ = ["AxisMap", "Factor", "GroupElement", "PermutationFactor", "PoolingAxis", "Slot", "SymmetryGroup", "Tensors"]


@dataclass(frozen=True)
class PoolingAxis:
    """How a group acts on one dimension of a tensor.

    Args:
        factors: the factors that move indices of this dimension, outermost first.
        slot: for every index, the number of its orbit under the group (fixed indices are orbits of their own).
        block: `[*index, factors]`: in which block of each factor the index lies, −1 if that factor leaves it alone.
        copy: `[*index, factors]`: in which of the factor's independently permuted copies, −1 likewise.
    """

    factors: tuple[str, ...]
    slot: np.ndarray
    block: np.ndarray
    copy: np.ndarray


@dataclass(frozen=True)
class SymmetryGroup:
    """A parameter symmetry group of a module.

    Args:
        program: the traced module.
        labelling: its neurons.
        structure: the permutation part.
        factors: in the order in which an element's entries are applied.
        verdict: the result of the numerical check, None if it was not asked for.
        notes: sentences on what was left out and why.
    """

    program: Program = field(repr=False)
    labelling: Labelling = field(repr=False)
    structure: Structure = field(repr=False)
    factors: tuple[Factor, ...]
    verdict: Any = None
    notes: tuple[str, ...] = ()

    @property
    def dimension(self) -> int:
        """Dimension of the group as a Lie group."""
        return sum(factor.dimension for factor in self.factors)

    @property
    def log_order(self) -> float:
        """Logarithm of the order of the discrete part."""
        return sum(factor.log_order for factor in self.factors)

    @property
    def unknown_ops(self) -> tuple[tuple[str, str], ...]:
        """(operator, module path) of the ops without a rule, whose tensors were pinned."""
        return tuple(dict.fromkeys(self.labelling.unknown_ops))

    def __getitem__(self, name: str) -> Factor:
        found = {factor.name: factor for factor in self.factors}
        if name not in found:
            raise UnknownNameError("factor", name, found)
        return found[name]

    def position(self, factor: Factor) -> int:
        """The place of a factor in the order of application."""
        return next(k for k, other in enumerate(self.factors) if other is factor)

    def identity(self) -> "GroupElement":
        """The element that changes nothing."""
        return GroupElement(self, ())

    def element(self, parameters: Mapping[str, Tensor]) -> "GroupElement":
        """The element with given parameters of some factors, identity in the others."""
        chosen = {self.position(self[name]): value for name, value in parameters.items()}
        return GroupElement(self, tuple((self.factors[k], chosen[k]) for k in sorted(chosen)))

    def sample(
        self, generator: torch.Generator | None = None, scale: float = 1.0, models: int | None = None
    ) -> "GroupElement":
        """A random element: uniform on compact factors, spread by `scale` on the others.

        Args:
            generator: torch's; the global one if None.
            scale: standard deviation on non-compact factors (of log-scales, of translations, …).
            models: None for one element, else one independent element for every model of a stacked population.
        """
        chosen = generator or torch.default_generator
        return GroupElement(self, tuple((f, f.sample(chosen, scale, models)) for f in self.factors))

    def from_json(self, entries: Sequence[Mapping[str, Any]]) -> "GroupElement":
        """The inverse of `GroupElement.to_json`.

        Raises:
            UserError: an entry names no factor of this group, or another kind of group.
        """
        word = []
        for entry in entries:
            factor = self[str(entry["factor"])]
            if entry["group"] != factor.kind:
                raise UserError(
                    f"factor {factor.name!r} is {factor.kind} in this group, got {entry['group']!r}; the element "
                    f"belongs to another architecture."
                )
            word.append((factor, factor.from_json(entry["parameters"])))
        return GroupElement(self, tuple(word))

    def table(self) -> list[dict[str, Any]]:
        """One row a factor: name, group, the tensors' dimensions it acts on, dimension, log-order."""
        return [
            {
                "factor": factor.name,
                "group": factor.kind,
                "acts on": [str(slot) for slot in factor.slots],
                "dimension": factor.dimension,
                "log order": factor.log_order,
            }
            for factor in self.factors
        ]

    def pooling_axes(self, parameter: str) -> tuple[PoolingAxis | None, ...]:
        """For every dimension of a tensor how the permutation part acts on it; None where it is fixed.

        Raises:
            UserError: there is no such parameter or buffer.
        """
        tensors = self.program.tensors
        if parameter not in tensors:
            raise UnknownNameError("parameter", parameter, tensors)
        labels = self.labelling.raw[tensors[parameter]]
        assert labels is not None
        slots, blocks, copies = self._orbits
        names = [f.name for f in self._permutations]
        result: list[PoolingAxis | None] = []
        for array in labels:
            flat = None if array is None else (array.ravel() if array.size == max(array.shape) else array)
            used = [] if flat is None else [k for k in range(len(names)) if (blocks[k][flat] >= 0).any()]
            if flat is None or not used:
                result.append(None)
                continue
            _, first, slot = np.unique(slots[flat], return_index=True, return_inverse=True)
            number = np.argsort(np.argsort(first))[slot].reshape(flat.shape)  # by first occurrence
            block, copy = (np.stack([each[k][flat] for k in used], -1) for each in (blocks, copies))
            result.append(PoolingAxis(tuple(names[k] for k in used), number, block, copy))
        return tuple(result)

    @cached_property
    def _permutations(self) -> tuple[PermutationFactor, ...]:
        return tuple(factor for factor in self.factors if isinstance(factor, PermutationFactor))

    @cached_property
    def _orbits(self) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
        """Orbit number of every label, and per permutation factor the block and the copy of every label (−1: none)."""
        structure = self.structure
        blocks: list[np.ndarray] = []
        copies: list[np.ndarray] = []
        moved = np.zeros(structure.count, bool)
        every = np.arange(structure.count, dtype=np.uint64)
        place_in_block = every.copy()  # of a label that nothing moves: the label itself
        for factor in sorted(self._permutations, key=lambda f: structure.levels[f.level].depth):
            nodes = structure.levels[factor.level].nodes
            place_in_block[nodes] = np.arange(nodes.shape[2])
        orbit = structure.colour + place_in_block
        for table in structure.derived:
            names = table[:, 0]
            orbit[names] = structure.colour[names]
            for column in range(1, table.shape[1]):
                part = place_in_block[np.maximum(table[:, column], 0)]
                orbit[names] = orbit[names] * np.uint64(1_000_003) + part
        for factor in self._permutations:
            nodes = structure.levels[factor.level].nodes
            for found, axis in ((blocks, 1), (copies, 0)):
                place = np.full(structure.count, -1, np.int64)
                place[nodes.ravel()] = np.indices(nodes.shape)[axis].ravel()
                for table in structure.derived:
                    for column in range(1, table.shape[1]):
                        inner = place[np.maximum(table[:, column], 0)]
                        place[table[:, 0]] = np.where(place[table[:, 0]] < 0, inner, place[table[:, 0]])
                found.append(place)
            moved |= factor.moved
        return np.where(moved, orbit, every), blocks, copies

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(title=f"symmetry group of {self.program.module_name}", title_justify="left")
        for column in ("factor", "group", "acts on", "dimension", "log order"):
            table.add_column(column, justify="right" if column in ("dimension", "log order") else "left")
        for row in self.table():
            where = row["acts on"]
            shown = ", ".join(where[:4]) + (f" and {len(where) - 4} more" if len(where) > 4 else "")
            table.add_row(row["factor"], row["group"], shown, str(row["dimension"]), f"{row['log order']:.2f}")
        yield table
        yield f"dimension {self.dimension}, log order {self.log_order:.2f}"
