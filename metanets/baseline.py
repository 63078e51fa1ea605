"""The contract of a baseline: what a metanet must beat, fitted in one go instead of trained step by step.

A baseline is one file under `metanets/baselines/` with one registration; the registry walks that folder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from metanets.metanet import Equivariance
from modelzoo.family import Paper
from modelzoo.registry import Registry

if TYPE_CHECKING:
    from metanets.training.data import WeightData


@dataclass(frozen=True)
class Baseline:
    """A registered baseline.

    Args:
        name: unique, snake_case; the file has the same name.
        fit: `(data, seed) -> predictions [model]` for every model of the data, fitted on the training split; choices
            are made on the validation split.
        paper: the papers it implements, the first is the main one.
        equivariance: under what its predictions are invariant; "function" where it sees only what the models compute.
        summary: one sentence.
        one_architecture: whether all models must share one architecture.
    """

    name: str
    fit: "Callable[[WeightData, int], NDArray[Any]]"
    paper: tuple[Paper, ...]
    equivariance: Equivariance
    summary: str
    one_architecture: bool = False


_REGISTRY = Registry[Baseline]("baseline", "metanets.baselines")


def register(baseline: Baseline) -> Baseline:
    """Add a baseline to the registry; raises `ValueError` for a taken name or a wrong file name."""
    _REGISTRY.add(baseline.name, baseline, baseline.fit.__module__)
    return baseline


def baselines() -> dict[str, Baseline]:
    """Every registered baseline by name, sorted."""
    return _REGISTRY.all()


def baseline(name: str) -> Baseline:
    """The baseline of that name; raises `UserError` with the nearest name when there is none."""
    return _REGISTRY.find(name)
