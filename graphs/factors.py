"""Factors of a symmetry group: each samples, applies, composes and inverts its own part.

Everything is vectorised over a leading model axis, of the tensors as of the factor's own parameters.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphs.algebra import Labels
from graphs.labels import Labelling
from graphs.permutations import Structure

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


Axes = list[tuple[tuple[int, ...], tuple[np.ndarray | None, ...]]]


def axes_of(labels: Labels, shape: Sequence[int]) -> Axes:
    """The dimensions of a tensor that carry labels: those that depend on each other together, the others alone."""
    joint = sorted(
        {j for k, a in enumerate(labels) if a is not None and a.size != a.shape[k]
         for j, n in enumerate(a.shape) if n > 1}
    )  # fmt: skip
    found: Axes = []
    if joint:
        sizes = [n if j in joint else 1 for j, n in enumerate(shape)]
        grids = (None if (a := labels[k]) is None else np.broadcast_to(a, sizes) for k in joint)
        arrays = tuple(None if grid is None else grid.reshape([shape[j] for j in joint]) for grid in grids)
        found.append((tuple(joint), arrays))
    return found + [((k,), (a.ravel(),)) for k, a in enumerate(labels) if a is not None and k not in joint]


def moved_as(labels: Labels, tensor: Tensor, back: np.ndarray) -> Tensor:
    """A tensor moved as its labels are: at an index stands the old entry at the index with the labels `back[label]`."""
    return _moved(axes_of(labels, tensor.shape), tensor, back, tensor.ndim)


class AxisMap:
    """Gathers entries of named tensors as labels move.

    Args:
        labelling: raw labels of every tensor.
    """

    def __init__(self, labelling: Labelling) -> None:
        self.axes: dict[str, Axes] = {}
        self.rank: dict[str, int] = {}
        self.shape: dict[str, tuple[int, ...]] = {}
        for name, value in labelling.program.tensors.items():
            labels = labelling.raw[value]
            assert labels is not None
            self.rank[name] = len(labels)
            self.shape[name] = labelling.program.values[value].shape
            self.axes[name] = axes_of(labels, self.shape[name])

    def slots(self, back: np.ndarray) -> tuple[Slot, ...]:
        """The dimensions in which a label map (where each label comes from) changes the coordinate."""
        found = []
        for name, groups in self.axes.items():
            dims: list[int] = []
            for axes, arrays in groups:
                sizes = [self.shape[name][k] for k in axes]
                sources = _sources(arrays, sizes, back)
                own = np.indices(sizes).reshape(len(sizes), -1)
                dims += [k for k, source, stays in zip(axes, sources, own, strict=True) if (source != stays).any()]
            found += [Slot(name, (k,)) for k in sorted(dims)]
        return tuple(found)

    def sources(self, name: str, dim: int, back: np.ndarray) -> np.ndarray | None:
        """For every index of a dimension the old index, `[..., size]`; None if it depends on other dimensions too.

        Args:
            name: of the tensor.
            dim: the dimension.
            back: `[..., labels]`, where each label comes from.
        """
        for dims, arrays in self.axes[name]:
            if dim in dims:
                sizes = [self.shape[name][k] for k in dims]
                source = _sources(arrays, sizes, back)[dims.index(dim)]
                source = np.moveaxis(source.reshape(*source.shape[:-1], *sizes), dims.index(dim) - len(dims), -1)
                rows = source.reshape(*back.shape[:-1], -1, self.shape[name][dim])
                return rows[..., 0, :] if bool((rows == rows[..., :1, :]).all()) else None
        return np.broadcast_to(np.arange(self.shape[name][dim]), (*back.shape[:-1], self.shape[name][dim]))

    def gather(self, tensors: Tensors, back: np.ndarray, names: Sequence[str]) -> dict[str, Tensor]:
        """Tensors whose entry at an index is the old entry at the index with the labels `back[label]`.

        Args:
            tensors: by name, each with any leading axes (one for a batch of label maps).
            back: `[labels]` or `[models, labels]`, the inverse of where labels go.
            names: the tensors to move.
        """
        return {name: _moved(self.axes[name], tensors[name], back, self.rank[name]) for name in names}


def _moved(axes: Axes, tensor: Tensor, back: np.ndarray, rank: int) -> Tensor:
    for dims, arrays in axes:
        index = _index(arrays, [tensor.shape[tensor.ndim - rank + k] for k in dims], back)
        if index is not None:
            tensor = _take(tensor, dims, torch.as_tensor(index, device=tensor.device), rank)
    return tensor


def _index(arrays: Sequence[np.ndarray | None], sizes: Sequence[int], back: np.ndarray) -> np.ndarray | None:
    """Flat old position for every flat new position of some joint dimensions, None where nothing moves."""
    index = np.ravel_multi_index(tuple(_sources(arrays, sizes, back)), tuple(sizes))
    return None if (index == np.arange(index.shape[-1])).all() else index


def _sources(arrays: Sequence[np.ndarray | None], sizes: Sequence[int], back: np.ndarray) -> list[np.ndarray]:
    """For every joint dimension its old coordinate at every flat new position, `[..., positions]`."""
    found = []
    for k, array in enumerate(arrays):
        if array is None:
            found.append(np.indices(sizes)[k].ravel())
            continue
        flat = array.ravel()
        order = np.argsort(flat, kind="stable")
        where = order[np.searchsorted(flat, back[..., flat], sorter=order)]
        found.append(np.unravel_index(where, tuple(sizes))[k])
    return list(np.broadcast_arrays(*found))


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
        self.slots = axes.slots(self._shifted)
        self._names = list(dict.fromkeys(slot.tensor for slot in self.slots))

    @property
    def _shifted(self) -> np.ndarray:
        """`[labels]`: where each label goes when every block goes to where the one before it was."""
        block = self.structure.levels[self.level]
        return self.structure.move(self.level, np.roll(np.tile(np.arange(block.count), (block.copies, 1)), 1, 1))

    @property
    def moved(self) -> np.ndarray:
        """`[labels]`: which labels an element may move; worked out when asked for, as there are many."""
        return self._shifted != np.arange(self.structure.count)

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

    def sources(self, parameters: Tensor, tensor: str, dim: int) -> np.ndarray | None:
        """For every index of a dimension of a tensor the index that goes there, None if it depends on other dimensions."""
        return self.axes.sources(tensor, dim, self.label_map(self.inverse(parameters)))

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
