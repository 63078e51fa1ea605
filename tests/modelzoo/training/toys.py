"""Toy families and tasks for the training tests, registered for one test only."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelzoo.family import Family, FamilyConfig, Recipe, families, family
from modelzoo.metrics import accuracy, majority_accuracy
from modelzoo.task import Spec, Split, Task, TaskData, tasks
from modelzoo.training import Plan, PopulationConfig


class ToyConfig(FamilyConfig):
    width: int = 6


class Toy(nn.Module):
    """Linear, batch norm, tanh, linear, in double precision."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.inner = nn.Linear(4, config.width, dtype=torch.float64)
        self.norm = nn.BatchNorm1d(config.width, dtype=torch.float64)
        self.outer = nn.Linear(config.width, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.norm(self.inner(x))))


class Branching(Toy):
    """Cannot be vmapped: its path depends on the data."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner(x)
        if hidden.mean() > 1e6:
            return self.outer(hidden)
        return self.outer(torch.tanh(self.norm(hidden)))


class Prototypes(nn.Module):
    """The mean of each class; fitted in one shot."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.randn(3, 4, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(x, self.centre)


def fit_prototypes(module: nn.Module, data: TaskData, seed: int) -> None:
    for label in range(3):
        module.centre.data[label] = data.train.inputs[0][data.train.targets == label].mean(0)


def blobs() -> TaskData:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (240,), generator=draw)
    x = torch.randn(240, 4, generator=draw, dtype=torch.float64) + 2 * F.one_hot(labels, 4)
    return TaskData(Split((x[:200],), labels[:200]), Split((x[200:],), labels[200:]))


def register_toys(patch: pytest.MonkeyPatch) -> None:
    """Add the toys to the registries until the patch is undone."""
    mlp = vars(family("mlp"))
    task = Task(
        name="blobs", summary="s", source="generated", inputs=Spec("vector", (4,)), targets=Spec("classes", (), 3),
        loss=F.cross_entropy, metric="accuracy", score=accuracy, higher_is_better=True, baseline="most frequent",
        load=blobs, baseline_score=majority_accuracy,
    )  # fmt: skip
    common: dict[str, Any] = {
        **mlp, "config": ToyConfig, "task": "blobs", "adapt": lambda task: {}, "variants": {"wide": {"width": 9}}, "perceptron": None,
        "tiny": {"width": 2}, "accepts": frozenset({"vector"}), "predicts": frozenset({"classes"}),
        "recipe": Recipe(steps=20, batch_size=16, learning_rate=1e-2),
    }  # fmt: skip
    toys = [
        Family(**{**common, "name": "toy", "module": Toy}),
        Family(**{**common, "name": "branching", "module": Branching, "not_vmappable": "its path depends on the data"}),
        Family(**{**common, "name": "prototypes", "module": Prototypes, "fit": fit_prototypes}),
        Family(**{**common, "name": "slow_prototypes", "module": Prototypes, "fit": fit_prototypes,
                  "not_vmappable": "for the test of both"}),
    ]  # fmt: skip
    tasks()
    patch.setitem(tasks.__globals__["_REGISTRY"], "blobs", task)
    for toy in toys:
        patch.setitem(families.__globals__["_REGISTRY"], toy.name, toy)


def plan_of(family: str, **fields: Any) -> Plan:
    return Plan.of(PopulationConfig.read(family=family, **{"models": 4, **fields}))
