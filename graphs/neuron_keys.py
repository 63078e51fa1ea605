"""Keys that tell neurons apart whatever their order, and the sorting of interchangeable blocks by them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphs.factors import PermutationFactor
from graphs.group import SymmetryGroup

ROUNDS = 3
TIE = 1e-9  # relative gap of keys below which two blocks cannot be told apart


class NeuronKeys:
    """Real numbers that tell labels apart and move along with them under every permutation of the group.

    Round by round every label collects a generic function of the entries it names and of the keys of the other labels
    that name them; labels of one neuron share what they collect.

    Args:
        group: whose labels.
    """

    def __init__(self, group: SymmetryGroup) -> None:
        labelling, structure = group.labelling, group.structure
        self.count = structure.count
        self.names = list(group.program.tensors)
        self.labels: dict[str, list[Tensor | None]] = {}
        for name, value in group.program.tensors.items():
            raw = labelling.raw[value]
            assert raw is not None
            self.labels[name] = [None if array is None else torch.from_numpy(array) for array in raw]
        self.neuron = torch.from_numpy(labelling.neuron)
        self.start = _uniform(structure.colour, 11)  # [labels]
        self.role = _uniform(structure.colour, 12)

    def __call__(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """`[*models, labels]` keys for tensors that may carry leading model axes."""
        values = {name: _real(tensors[name].detach()) for name in self.names}
        lead = next(iter(values.values())).ndim - len(self.labels[self.names[0]]) if self.names else 0
        models = next(iter(values.values())).shape[:lead] if self.names else ()
        keys = self.start.expand(*models, self.count)
        for number in range(ROUNDS):
            collected = torch.zeros(*models, self.count, dtype=torch.float64)
            for position, name in enumerate(self.names):
                self._collect(values[name], self.labels[name], keys, collected, position, number)
            collected = collected * self.role
            own = torch.zeros(*models, int(self.neuron.max()) + 1, dtype=torch.float64)
            own.index_add_(-1, self.neuron, collected)
            keys = self.start + torch.tanh(own)[..., self.neuron]
        return keys

    def _collect(
        self, value: Tensor, labels: list[Tensor | None], keys: Tensor, collected: Tensor, position: int, number: int
    ) -> None:
        """Add the messages of one tensor's entries to the labels that name them."""
        shape = value.shape[value.ndim - len(labels) :]
        message = value * _constant(position, number, 0)
        for axis, array in enumerate(labels):
            if array is not None:
                message = message + keys[..., array.reshape(-1)].unflatten(-1, array.shape) * _constant(
                    position, number, axis + 1
                )
        message = torch.sin(message) * value
        lead = value.ndim - len(shape)
        for array in labels:
            if array is None:
                continue
            gone = [lead + k for k in range(len(shape)) if array.shape[k] == 1 and shape[k] > 1]
            summed = message.mean(gone, keepdim=True) if gone else message
            collected.index_add_(-1, array.reshape(-1), summed.flatten(lead) if len(shape) else summed[..., None])


def _uniform(colour: np.ndarray, salt: int) -> Tensor:
    """A number in [0.5, 1.5] for every colour."""
    mixed = (colour ^ np.uint64(salt * 0x9E3779B97F4A7C15 % 2**64)) * np.uint64(0xD6E8FEB86659FD93)
    return torch.from_numpy((mixed >> np.uint64(11)).astype(np.float64) / 2**53 + 0.5)


def _constant(*numbers: int) -> float:
    """A generic number in [0.5, 1.5] for a place in the computation."""
    return 0.5 + float(np.random.default_rng(numbers).random())


def _real(tensor: Tensor) -> Tensor:
    """A tensor as generic real numbers in double precision."""
    if tensor.is_complex():
        return (tensor.real + 0.7548776662466927 * tensor.imag).double()
    return tensor.double()


@dataclass(frozen=True)
class Tie:
    """Blocks (or axes) of one factor that cannot be told apart: any order of them is canonical.

    Args:
        factor: name of the factor.
        copy: which of the factor's copies.
        blocks: their places in the canonical order.
    """

    factor: str
    copy: int
    blocks: tuple[int, ...]


def sorting(factor: PermutationFactor, keys: Tensor) -> tuple[Tensor, list[Tie]]:
    """The element that sorts a factor's blocks by their keys, `[copies, m]`, and what could not be sorted."""
    nodes = torch.from_numpy(factor.structure.levels[factor.level].nodes)  # [copies, m, size]
    of_block = keys[..., nodes.reshape(-1)].unflatten(-1, nodes.shape).sum(-1)
    order = of_block.argsort(dim=-1, stable=True)
    ranked = of_block.gather(-1, order)
    spread = ranked.abs().amax(-1, keepdim=True)
    return order.argsort(dim=-1), ties_of(factor.name, ranked.diff(dim=-1) <= TIE * spread)


def ties_of(factor: str, close: Tensor) -> list[Tie]:
    """Ties of one factor from which places are as good as equal to the next, `[copies, m − 1]`."""
    return [Tie(factor, copy, run) for copy, row in enumerate(close.tolist()) for run in _runs(row)]


def _runs(close: list[bool]) -> list[tuple[int, ...]]:
    """Runs of places that are each close to the next."""
    found: list[tuple[int, ...]] = []
    run: tuple[int, ...] = (0,)
    for place, near in enumerate(close, 1):
        if near:
            run = (*run, place)
        else:
            found.append(run)
            run = (place,)
    return [entry for entry in (*found, run) if len(entry) > 1]
