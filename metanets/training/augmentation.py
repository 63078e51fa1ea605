"""The contract of augmentations in weight space: a batch of models in, a batch of other models of the same architecture out.

Improved Generalization of Weight Space Networks via Augmentations (Shamsian et al., 2024) sorts them into those that leave the
function, those that leave the label, and mixtures. An augmentation is registered in a file under
`metanets/training/augmentations/`; the registry walks that folder, and `metazoo train --augment NAME` finds it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from metanets.batching import Topology
from modelzoo.errors import UserError
from modelzoo.family import Paper
from modelzoo.registry import Registry

Keeps = Literal["function", "label", "mixture"]
"""What stays: the models' functions; their targets; neither, targets are mixed as the weights are."""
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Sample:
    """Models of one architecture with their targets, in one training step.

    Args:
        topology: their parameter graph, with its group.
        tensors: parameters and buffers, `{name: [M, *shape]}`.
        targets: class numbers `[M]`, probabilities of classes `[M, classes]`, or numbers `[M]`.
        classes: how many; 0 for numbers.
    """

    topology: Topology
    tensors: Tensors
    targets: Tensor
    classes: int = 0

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def values(self) -> Tensor:
        """`[M, E]` edge values."""
        return self.topology.symmetry[1].values(self.tensors)

    def with_tensors(self, tensors: Tensors) -> "Sample":
        """The same with some tensors replaced, in the types they had."""
        changed = {
            name: tensor.to(self.tensors[name].dtype) for name, tensor in tensors.items() if name in self.tensors
        }
        return replace(self, tensors={**self.tensors, **changed})

    def with_values(self, values: Tensor) -> "Sample":
        """The same with other edge values `[M, E]`."""
        return self.with_tensors(self.topology.symmetry[1].scatter(values))

    def mixed_targets(self, partner: Tensor, share: Tensor) -> Tensor:
        """share · own + (1 − share) · partner's: numbers `[M]`, or probabilities `[M, classes]`."""
        own = self.targets
        if self.classes and own.ndim == 1:
            own = F.one_hot(own, self.classes).to(torch.get_default_dtype())
        share = share.to(own.dtype).reshape(-1, *[1] * (own.ndim - 1))
        return share * own + (1 - share) * own[partner]


def _always(topology: Topology) -> bool:
    return True


@dataclass(frozen=True)
class Augmentation:
    """A registered augmentation.

    Args:
        name: unique, snake_case.
        apply: `(sample, strength, generator) -> sample`, another random change for every model.
        strength: the default.
        meaning: of the strength, in words.
        most: largest strength that makes sense, None for no bound.
        keeps: what it leaves, see `Keeps`.
        paper: where it comes from.
        summary: one sentence.
        applies: whether it changes models of an architecture at all; raises `UserError` where it cannot read them.
    """

    name: str
    apply: Callable[[Sample, float, torch.Generator], Sample]
    strength: float
    meaning: str
    keeps: Keeps
    paper: Paper
    summary: str
    most: float | None = None
    applies: Callable[[Topology], bool] = _always


PAPER = Paper("Data Augmentations in Deep Weight Spaces", "Shamsian et al.", 2023, "S171")
_REGISTRY = Registry[Augmentation]("augmentation", "metanets.training.augmentations")


def register(augmentation: Augmentation) -> Augmentation:
    """Add an augmentation to the registry; raises `ValueError` for a taken name."""
    _REGISTRY.add(augmentation.name, augmentation)
    return augmentation


def augmentations() -> dict[str, Augmentation]:
    """Every registered augmentation by name, sorted."""
    return _REGISTRY.all()


def augmentation(name: str) -> Augmentation:
    """The augmentation of that name; raises `UserError` with the nearest name when there is none."""
    return _REGISTRY.find(name)


def strengths(given: Mapping[str, float | None]) -> dict[str, float]:
    """Augmentations with their strengths, the default where there is none; raises `UserError` for what does not fit."""
    found = {}
    for name, strength in given.items():
        chosen = augmentation(name)
        found[name] = chosen.strength if strength is None else float(strength)
        if not 0 < found[name] <= (chosen.most or float("inf")):
            bound = f"in (0, {chosen.most:g}]" if chosen.most else "positive"
            raise UserError(
                f"the strength of augmentation {name!r} ({chosen.meaning}) must be {bound}, got {strength:g}.", 2
            )
    return found


def augment(sample: Sample, chosen: Mapping[str, float], generator: torch.Generator) -> Sample:
    """One augmentation after the other, in the order given; those that do not apply to an architecture leave it alone."""
    for name, strength in chosen.items():
        if augmentation(name).applies(sample.topology):
            sample = augmentation(name).apply(sample, strength, generator)
    return sample
