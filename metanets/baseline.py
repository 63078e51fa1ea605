"""The contract of a baseline: what a metanet must beat, fitted in one go instead of trained step by step.

A baseline is one file under `metanets/baselines/` with one registration; the registry walks that folder.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from metanets.metanet import Equivariance
from modelzoo.errors import UnknownNameError
from modelzoo.family import Paper

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


_REGISTRY: dict[str, Baseline] = {}


def register(baseline: Baseline) -> Baseline:
    """Add a baseline to the registry; raises `ValueError` for a taken name or a wrong file name."""
    if baseline.name in _REGISTRY:
        raise ValueError(f"baseline {baseline.name!r} is registered twice")
    if baseline.fit.__module__.split(".")[-1] != baseline.name:
        raise ValueError(f"baseline {baseline.name!r} must live in a file of its own name")
    _REGISTRY[baseline.name] = baseline
    return baseline


@cache
def _discover() -> None:
    import metanets.baselines as package

    for info in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(info.name)


def baselines() -> dict[str, Baseline]:
    """Every registered baseline by name, sorted."""
    _discover()
    return dict(sorted(_REGISTRY.items()))


def baseline(name: str) -> Baseline:
    """The baseline of that name; raises `UserError` with the nearest name when there is none."""
    known = baselines()
    if name not in known:
        raise UnknownNameError("baseline", name, known)
    return known[name]
