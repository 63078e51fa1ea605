"""Symmetry groups and their elements.

A group is a tuple of *factors*; each knows how to sample, apply, compose and invert its own part, vectorised over a
leading model axis. An *element* is a word in the factors, applied from left to right; composing brings it to the order
of `SymmetryGroup.factors` with one entry per factor, as far as the factors know how to pass each other
(`Factor.conjugate`), so a semidirect product composes and inverts exactly.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call

from graphs.labels import Labelling
from graphs.permutations import Structure
from graphs.program import Program
from modelzoo.errors import UnknownNameError, UserError

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Slot:
    """Where a factor acts: dimensions of one tensor.

    Args:
        tensor: name of the parameter or buffer.
        dims: the dimensions it acts on.
    """

    tensor: str
    dims: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.tensor}[{', '.join(map(str, self.dims))}]" if self.dims else self.tensor


class Factor(ABC):
    """One factor of a symmetry group; its elements are tensors of one shape, the *parameters*.

    Leading axes of the parameters are a batch of elements, one per model.

    Args:
        name: unique in the group.
        kind: the group itself (`S_8`, `S_4^4`, `R+^16`, `Z2^8`, `GL(4)^4`, `translation^16`).
        slots: the tensors it acts on.
        dimension: as a Lie group.
        log_order: logarithm of the number of connected components (of the order, if discrete).
        absorbs: names of factors that are contained in this one and so leave the group.
    """

    name: str
    kind: str
    slots: tuple[Slot, ...]
    dimension: int = 0
    log_order: float = 0.0
    absorbs: tuple[str, ...] = ()

    @abstractmethod
    def identity(self) -> Tensor:
        """The parameters of the identity, `[*shape]`."""

    @abstractmethod
    def sample(self, generator: torch.Generator, scale: float = 1.0, models: int | None = None) -> Tensor:
        """Parameters of a random element (of one per model): uniform where compact, spread by `scale` elsewhere."""

    @abstractmethod
    def apply(self, parameters: Tensor, tensors: Tensors) -> dict[str, Tensor]:
        """The tensors it changes, transformed; every tensor may carry leading model axes."""

    @abstractmethod
    def compose(self, after: Tensor, before: Tensor) -> Tensor:
        """Parameters of `before` followed by `after`."""

    @abstractmethod
    def inverse(self, parameters: Tensor) -> Tensor:
        """Parameters of the inverse."""

    def conjugate(self, parameters: Tensor, by: "Factor", other: Tensor) -> Tensor | None:
        """Parameters of `by(other) · self(parameters) · by(other)⁻¹`, None if that is not known to be in this factor."""
        return None

    def to_json(self, parameters: Tensor) -> Any:
        """Parameters as JSON can hold them (complex numbers as pairs)."""
        return torch.view_as_real(parameters).tolist() if parameters.is_complex() else parameters.tolist()

    def from_json(self, entry: Any) -> Tensor:
        """The inverse of `to_json`."""
        like = self.identity()
        if like.is_complex():
            return torch.view_as_complex(torch.tensor(entry, dtype=like.real.dtype))
        return torch.tensor(entry, dtype=like.dtype)


class AxisMap:
    """Gathers entries of named tensors as labels move.

    Args:
        labelling: raw labels of every tensor.
    """

    def __init__(self, labelling: Labelling) -> None:
        self.axes: dict[str, list[tuple[tuple[int, ...], tuple[np.ndarray, ...]]]] = {}
        self.rank: dict[str, int] = {}
        self.shape: dict[str, tuple[int, ...]] = {}
        for name, value in labelling.program.tensors.items():
            labels = labelling.raw[value]
            assert labels is not None
            self.rank[name] = len(labels)
            self.shape[name] = labelling.program.values[value].shape
            joint = sorted(
                {j for k, a in enumerate(labels) if a is not None and a.size != a.shape[k]
                 for j, n in enumerate(a.shape) if n > 1}
            )  # fmt: skip
            groups: list[tuple[tuple[int, ...], tuple[np.ndarray, ...]]] = []
            if joint:
                sizes = [self.shape[name][k] for k in joint]
                arrays = []
                for k in joint:
                    array = labels[k]
                    assert array is not None
                    full = np.broadcast_to(array, [n if j in joint else 1 for j, n in enumerate(self.shape[name])])
                    arrays.append(full.reshape(sizes))
                groups.append((tuple(joint), tuple(arrays)))
            groups += [((k,), (a.ravel(),)) for k, a in enumerate(labels) if a is not None and k not in joint]
            self.axes[name] = groups

    def slots(self, moved: np.ndarray) -> tuple[Slot, ...]:
        """The dimensions in which moved labels (a mask) occur."""
        found = []
        for name, groups in self.axes.items():
            dims = [k for group, arrays in groups for k, a in zip(group, arrays, strict=True) if moved[a].any()]
            found += [Slot(name, (k,)) for k in sorted(dims)]
        return tuple(found)

    def gather(self, tensors: Tensors, back: np.ndarray, names: Sequence[str]) -> dict[str, Tensor]:
        """Tensors whose entry at an index is the old entry at the index with the labels `back[label]`.

        Args:
            tensors: by name, each with any leading axes (one for a batch of label maps).
            back: `[labels]` or `[models, labels]`, the inverse of where labels go.
            names: the tensors to move.
        """
        result = {}
        for name in names:
            tensor = tensors[name]
            for dims, arrays in self.axes[name]:
                index = self._index(arrays, back)
                if index is not None:
                    tensor = _take(tensor, dims, torch.as_tensor(index, device=tensor.device), self.rank[name])
            result[name] = tensor
        return result

    @staticmethod
    def _index(arrays: tuple[np.ndarray, ...], back: np.ndarray) -> np.ndarray | None:
        """Flat old position for every flat new position of some joint dimensions, None where nothing moves."""
        sizes = arrays[0].shape
        sources = []
        for k, array in enumerate(arrays):
            flat = array.ravel()
            order = np.argsort(flat, kind="stable")
            where = order[np.searchsorted(flat, back[..., flat], sorter=order)]
            sources.append(np.unravel_index(where, sizes)[k])
        index = np.ravel_multi_index(tuple(sources), sizes)
        return None if (index == np.arange(index.shape[-1])).all() else index


def _take(tensor: Tensor, dims: tuple[int, ...], index: Tensor, rank: int) -> Tensor:
    """Gather along (joint) dimensions, counted without the leading model axes; `index` is `[n]` or `[models, n]`."""
    lead = tensor.ndim - rank
    axes = [lead + k for k in dims]
    moved = torch.movedim(tensor, axes, list(range(tensor.ndim - len(dims), tensor.ndim)))
    shape = moved.shape
    flat = moved.reshape(*shape[: moved.ndim - len(dims)], -1)
    if index.ndim == 1:
        flat = flat.index_select(-1, index)
    else:
        if lead == 0:  # one tensor, many elements: it gets the model axis
            flat, lead = flat.expand(len(index), *flat.shape), 1
            shape = torch.Size((len(index), *shape))
            axes = [axis + 1 for axis in axes]
        index = index.reshape(len(index), *(1 for _ in range(flat.ndim - 2)), -1).expand(flat.shape)
        flat = flat.gather(-1, index)
    return torch.movedim(flat.reshape(shape), list(range(len(shape) - len(dims), len(shape))), axes)


class PermutationFactor(Factor):
    """Permutations of interchangeable blocks: S_m in each of several copies.

    Parameters are int64 `[..., copies, m]`: block e goes to where block `parameters[c, e]` was.

    Args:
        name: unique in the group.
        level: index of the level in the structure.
        structure: relations and levels.
        axes: where labels are met.
    """

    def __init__(self, name: str, level: int, structure: Structure, axes: AxisMap) -> None:
        self.name, self.level, self.structure, self.axes = name, level, structure, axes
        block = structure.levels[level]
        self.kind = f"S_{block.count}" + (f"^{block.copies}" if block.copies > 1 else "")
        self.log_order = block.copies * math.lgamma(block.count + 1)
        shift = np.roll(np.tile(np.arange(block.count), (block.copies, 1)), 1, 1)
        self.moved = structure.move(level, shift) != np.arange(structure.count)
        self.slots = axes.slots(self.moved)
        self._names = list(dict.fromkeys(slot.tensor for slot in self.slots))

    @property
    def parent(self) -> int:
        """The level in whose blocks this one lies, −1 at the top."""
        return self.structure.levels[self.level].parent

    def identity(self) -> Tensor:
        block = self.structure.levels[self.level]
        return torch.arange(block.count).repeat(block.copies, 1)

    def sample(self, generator: torch.Generator, scale: float = 1.0, models: int | None = None) -> Tensor:
        block = self.structure.levels[self.level]
        lead = () if models is None else (models,)
        return torch.rand(*lead, block.copies, block.count, generator=generator).argsort(-1)

    def label_map(self, parameters: Tensor) -> np.ndarray:
        """`[..., labels]`: where every label goes."""
        return self.structure.move(self.level, parameters.cpu().numpy())

    def apply(self, parameters: Tensor, tensors: Tensors) -> dict[str, Tensor]:
        back = self.label_map(self.inverse(parameters))
        return self.axes.gather(tensors, back, [name for name in self._names if name in tensors])

    def compose(self, after: Tensor, before: Tensor) -> Tensor:
        after, before = torch.broadcast_tensors(after, before)
        return after.gather(-1, before)

    def inverse(self, parameters: Tensor) -> Tensor:
        return parameters.argsort(-1)

    def conjugate(self, parameters: Tensor, by: Factor, other: Tensor) -> Tensor | None:
        if not isinstance(by, PermutationFactor):
            return None
        nodes = self.structure.levels[self.level].nodes
        heads = nodes[:, :, 0]
        m = heads.shape[1]
        sigma = by.label_map(other)[..., heads.ravel()]
        if (sigma == heads.ravel()).all():
            return parameters
        owner = np.full(self.structure.count, -1, np.int64)
        owner[nodes.ravel()] = np.repeat(np.arange(heads.size), nodes.shape[2])
        target = torch.as_tensor(owner[sigma])  # flat block → flat block, [..., copies · m]
        if (target < 0).any():
            return None
        offset = (torch.arange(heads.shape[0]) * m)[:, None]
        flat = (parameters + offset).flatten(-2)
        flat, target = torch.broadcast_tensors(flat, target)
        image = torch.empty_like(flat).scatter(-1, target, target.gather(-1, flat))
        return (image % m).unflatten(-1, heads.shape)


@dataclass(frozen=True)
class PoolingAxis:
    """How a group acts on one dimension of a tensor.

    Args:
        factors: the factors that move indices of this dimension, outermost first.
        slot: for every index, the number of its orbit under the group (fixed indices are orbits of their own).
        block: `[*index, factors]`: in which block of each factor the index lies, −1 if that factor leaves it alone.
    """

    factors: tuple[str, ...]
    slot: np.ndarray
    block: np.ndarray


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
        slots, blocks = self._orbits
        names = [f.name for f in self._permutations]
        result: list[PoolingAxis | None] = []
        for array in labels:
            flat = None if array is None else (array.ravel() if array.size == max(array.shape) else array)
            used = [] if flat is None else [k for k in range(len(names)) if (blocks[k][flat] >= 0).any()]
            if flat is None or not used:
                result.append(None)
                continue
            _, slot = np.unique(slots[flat], return_inverse=True)
            block = np.stack([blocks[k][flat] for k in used], -1)
            result.append(PoolingAxis(tuple(names[k] for k in used), slot.reshape(flat.shape), block))
        return tuple(result)

    @cached_property
    def _permutations(self) -> tuple[PermutationFactor, ...]:
        return tuple(factor for factor in self.factors if isinstance(factor, PermutationFactor))

    @cached_property
    def _orbits(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """Orbit number of every label, and per permutation factor the block of every label (−1: none)."""
        structure, blocks = self.structure, []
        moved = np.zeros(structure.count, bool)
        for factor in self._permutations:
            nodes = structure.levels[factor.level].nodes
            block = np.full(structure.count, -1, np.int64)
            block[nodes.ravel()] = np.broadcast_to(np.arange(nodes.shape[1])[:, None], nodes.shape).ravel()
            for table in structure.derived:
                for column in range(1, table.shape[1]):
                    part = block[np.maximum(table[:, column], 0)]
                    block[table[:, 0]] = np.where(block[table[:, 0]] < 0, part, block[table[:, 0]])
            blocks.append(block)
            moved |= factor.moved
        every = np.arange(structure.count, dtype=np.uint64)
        return np.where(moved, structure.colour, every), blocks

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


@dataclass(frozen=True)
class GroupElement:
    """A symmetry: a word in the factors of a group, applied from left to right.

    Args:
        group: the group.
        word: (factor, parameters); after composing, in the order of the group's factors as far as they can pass.
    """

    group: SymmetryGroup = field(repr=False)
    word: tuple[tuple[Factor, Tensor], ...]

    def apply(self, tensors: Tensors) -> dict[str, Tensor]:
        """Transform named parameters and buffers; other names pass through.

        Args:
            tensors: by name, `[*shape]`, or `[models, *shape]`.
        """
        result = dict(tensors)
        for factor, parameters in self.word:
            result.update(factor.apply(parameters, result))
        return result

    def apply_stacked(self, stacked: Tensors) -> dict[str, Tensor]:
        """Transform a stacked population, `[models, *shape]` each, in one vectorised pass."""
        return self.apply(stacked)

    def apply_module(self, module: nn.Module) -> nn.Module:
        """Transform a module's own parameters and state buffers in place, and return it."""
        with torch.no_grad():
            own = dict(module.named_parameters()) | dict(module.named_buffers())
            for name, tensor in self.apply(own).items():
                own[name].copy_(tensor)
        return module

    def call(self, module: nn.Module, tensors: Tensors, *inputs: Any) -> Any:
        """The module's output with transformed tensors."""
        return functional_call(module, self.apply(tensors), inputs)

    def __matmul__(self, other: "GroupElement") -> "GroupElement":
        """`self @ other`: first `other`, then `self`."""
        return GroupElement(self.group, _sorted(self.group, [*other.word, *self.word]))

    def inverse(self) -> "GroupElement":
        """The element that undoes this one."""
        word = [(factor, factor.inverse(parameters)) for factor, parameters in reversed(self.word)]
        return GroupElement(self.group, _sorted(self.group, word))

    def to_json(self) -> list[dict[str, Any]]:
        """The word as JSON can hold it."""
        return [{"factor": f.name, "group": f.kind, "parameters": f.to_json(p)} for f, p in self.word]

    def __getitem__(self, name: str) -> Tensor:
        """The parameters of one factor (its identity if the element does not use it)."""
        factor = self.group[name]
        found = [parameters for other, parameters in self.word if other is factor]
        if len(found) > 1:
            raise UserError(f"factor {name!r} occurs {len(found)} times in this element; it has no single value.")
        return found[0] if found else factor.identity()


def _sorted(group: SymmetryGroup, word: list[tuple[Factor, Tensor]]) -> tuple[tuple[Factor, Tensor], ...]:
    """Bring a word to the order of the factors: neighbours of one factor compose, others pass by conjugation."""
    place = {id(factor): k for k, factor in enumerate(group.factors)}
    done: list[tuple[Factor, Tensor]] = []
    for factor, parameters in word:
        entry = (factor, parameters)
        position = len(done)
        moved: list[tuple[Factor, Tensor]] = []
        while position and place[id(done[position - 1][0])] > place[id(factor)]:
            late, value = done[position - 1]
            changed = late.conjugate(value, factor, parameters)
            if changed is None:
                break
            moved.insert(0, (late, changed))
            position -= 1
        if position and done[position - 1][0] is factor:
            entry = (factor, factor.compose(parameters, done[position - 1][1]))
            position -= 1
        elif position and place[id(done[position - 1][0])] > place[id(factor)]:  # cannot pass: stay at the end
            done.append(entry)
            continue
        done = [*done[:position], entry, *moved]
    return tuple(done)
