"""Where the blocks of a permutation factor stand in tensors, and how alike the blocks of two models are.

Everything is read off the labels of an inferred group: a neuron, a head, a group of channels are all blocks. For a
tensor A in which block i of a factor holds the entries A_i, the *overlap* K[i, j] = Σ ⟨A_i, B_j⟩ is what an assignment
of B's blocks to A's places wants to be large; a *soft* permutation replaces A_i by Σ_j P[i, j] B_j.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphs.algebra import Labels
from graphs.factors import PermutationFactor, axes_of, moved_as
from graphs.group import SymmetryGroup

SEVERAL = -2  # a label or a place that belongs to two blocks at once
NONE = -1

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Occurrence:
    """The blocks of a factor along some (joint) dimensions of one tensor.

    Args:
        tensor: its name.
        rank: of the tensor.
        dims: the dimensions, flattened together.
        positions: `[copies, m, q]` flat positions of every block, in an order that matches the other blocks'.
    """

    tensor: str
    rank: int
    dims: tuple[int, ...]
    positions: Tensor

    @cached_property
    def in_order(self) -> bool:
        """Whether the blocks stand one after another from the start, so that nothing needs to be gathered."""
        return torch.equal(self.positions.flatten(), torch.arange(self.positions.numel()))

    def parts(self, tensor: Tensor) -> Tensor:
        """The entries of every block, `[rest, copies, m, q]`, real (leading axes of the tensor count as rest)."""
        flat = _last(tensor, self.rank, self.dims)
        whole = self.in_order and flat.shape[-1] == self.positions.numel()
        part = flat.unflatten(-1, self.positions.shape) if whole else flat[..., self.positions]
        if part.is_complex():
            part = torch.view_as_real(part).movedim(-1, 0)
        return part.reshape(-1, *part.shape[-3:])

    def take(self, tensor: Tensor) -> Tensor:
        """The same block by block, `[copies, m, q · rest]`."""
        return self.parts(tensor).permute(1, 2, 3, 0).flatten(2)

    def overlap(self, reference: Tensor, tensor: Tensor) -> Tensor:
        """⟨A_i, B_j⟩, `[copies, m, m]`; blocks of one entry a row need no copy of the tensors."""
        copies, _, size = self.positions.shape
        if copies == size == 1:
            a, b = (self.parts(x)[:, 0, :, 0] for x in (reference, tensor))
            return (torch.outer(a[0], b[0]) if len(a) == 1 else a.T @ b)[None]
        return self.take(reference) @ self.take(tensor).mT

    def mix(self, matrices: Tensor, tensor: Tensor) -> Tensor:
        """Replace block i by Σ_j matrices[c, i, j] · block j; matrices are `[copies, m, m]`."""
        flat = _last(tensor, self.rank, self.dims)
        part = flat[..., self.positions]
        mixed = torch.einsum("cij,...cjq->...ciq", matrices.to(part.dtype), part)
        flat = flat.index_copy(-1, self.positions.flatten(), mixed.flatten(-3))
        lead = tensor.ndim - self.rank
        sizes = [tensor.shape[lead + d] for d in self.dims]
        return torch.movedim(flat.unflatten(-1, sizes), list(range(-len(self.dims), 0)), [lead + d for d in self.dims])


def _last(tensor: Tensor, rank: int, dims: Sequence[int]) -> Tensor:
    """A tensor with some dimensions moved to the end and flattened."""
    lead = tensor.ndim - rank
    moved = torch.movedim(tensor, [lead + d for d in dims], list(range(-len(dims), 0)))
    return moved.flatten(-len(dims))


def block_codes(group: SymmetryGroup, factor: PermutationFactor) -> Codes:
    """For every label the block `copy · m + e` it belongs to, `NONE` or `SEVERAL`."""
    nodes = factor.structure.levels[factor.level].nodes
    codes = np.full(factor.structure.count, NONE, np.int64)
    codes[nodes.ravel()] = np.repeat(np.arange(nodes.shape[0] * nodes.shape[1]), nodes.shape[2])
    for table in factor.structure.derived:
        parts = np.where(table[:, 1:] < 0, NONE, codes[np.maximum(table[:, 1:], 0)])
        own = codes[table[:, 0]]
        codes[table[:, 0]] = np.where(own == NONE, joined(parts), own)
    return codes


def joined(codes: Codes) -> Codes:
    """One code for codes along the last axis: theirs if those that name a block agree, else `SEVERAL`."""
    top = codes.max(-1, initial=NONE)
    named = np.where(codes == NONE, top[..., None], codes)
    return np.where((named == top[..., None]).all(-1), top, SEVERAL)


Places = Mapping[str, tuple[Labels | None, tuple[int, ...]]]


def parameters_of(group: SymmetryGroup) -> dict[str, tuple[Labels | None, tuple[int, ...]]]:
    """Labels and shape of every parameter that is a real or complex tensor; a tied one stands under its first name."""
    values = group.program.values
    first = {value: name for name, value in reversed(list(group.program.parameters.items()))}
    return {
        name: (group.labelling.raw[value], values[value].shape)
        for value, name in first.items()
        if values[value].dtype.is_floating_point or values[value].dtype.is_complex
    }


class Blocks:
    """The occurrences of one permutation factor in labelled tensors.

    Args:
        group: the group.
        factor: one of its permutation factors.
        places: labels and shape of the tensors, by name.
    """

    def __init__(self, group: SymmetryGroup, factor: PermutationFactor, places: Places) -> None:
        self.group, self.factor = group, factor
        self.codes = block_codes(group, factor)
        level = factor.structure.levels[factor.level]
        self.copies, self.count = level.copies, level.count
        shift = np.roll(np.tile(np.arange(self.count), (self.copies, 1)), -1, 1)  # block e → e + 1
        self.shifted = factor.structure.move(factor.level, shift)
        self.entangled = False
        self.occurrences: list[Occurrence] = []
        for name, (labels, shape) in places.items():
            self.occurrences += self.at(name, labels, shape)
        names = [found.tensor for found in self.occurrences]
        self.tensors = list(dict.fromkeys(names))
        # the overlap is exact if no tensor holds the blocks twice; else it is the slope at the present order
        self.exact = len(set(names)) == len(names) and not self.entangled
        self.complete = {slot.tensor for slot in factor.slots} & set(places) <= set(names)  # of all that it moves

    def at(self, name: str, labels: Labels | None, shape: Sequence[int]) -> list[Occurrence]:
        """Where the blocks stand in a tensor with these labels."""
        found = []
        for dims, arrays in axes_of(labels, shape) if labels is not None else ():
            known = [array for array in arrays if array is not None]
            codes = joined(np.stack([self.codes[array] for array in known], -1)).ravel()
            self.entangled |= bool((codes == SEVERAL).any())
            if not (codes >= 0).any():
                continue
            sizes = [shape[d] for d in dims]
            index = torch.arange(int(np.prod(sizes))).reshape(sizes)
            forward = moved_as(arrays, index, self.shifted).flatten().numpy()  # where every position goes
            first = [np.flatnonzero(codes == copy * self.count) for copy in range(self.copies)]
            if not len(first[0]) or len({len(own) for own in first}) > 1:
                continue
            rows = [np.stack(first)]
            for _ in range(self.count - 1):
                rows.append(forward[rows[-1]])
            found.append(Occurrence(name, len(shape), tuple(dims), torch.from_numpy(np.stack(rows, 1))))
        return found

    def overlap(self, reference: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        """K[c, i, j] = Σ ⟨A_i, B_j⟩ over all occurrences, `[copies, m, m]`."""
        total = torch.zeros(self.copies, self.count, self.count, dtype=torch.float64)
        for found in self.occurrences:
            total += found.overlap(reference[found.tensor], tensors[found.tensor])
        return total

    def values(self, reference: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
        """K[c, i, i], `[copies, m]`."""
        total = torch.zeros(self.copies, self.count, dtype=torch.float64)
        for found in self.occurrences:
            total += (found.take(reference[found.tensor]) * found.take(tensors[found.tensor])).sum(-1)
        return total

    def mix(self, matrices: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors under a soft permutation `[copies, m, m]`; a permutation matrix does what the factor does."""
        changed: dict[str, Tensor] = {}
        for found in self.occurrences:
            changed[found.tensor] = found.mix(matrices, changed.get(found.tensor, tensors[found.tensor]))
        return changed


def matrices_of(parameters: Tensor) -> Tensor:
    """The permutation matrices of a factor's parameters `[..., copies, m]`: P[p(e), e] = 1."""
    return torch.nn.functional.one_hot(parameters.argsort(-1), parameters.shape[-1]).double()
