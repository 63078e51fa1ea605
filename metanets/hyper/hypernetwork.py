"""The contract of a hypernetwork: a conditioning in, the parameters of target networks out.

A hypernetwork is one file under `metanets/hyper/` with one registration; the registry walks that folder. The target is
any module: it is called through `torch.func.functional_call` with generated parameters, many targets at once by vmap.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from metanets.hyper.target import Parameters, Problem, Target
from modelzoo.configured import configured
from modelzoo.family import FamilyConfig, Paper, Recipe
from modelzoo.registry import Registry

Report = Callable[[int, float], None]  # (step, loss)


class HypernetworkConfig(BaseModel):
    """Base of every hypernetwork's config: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Generated(NamedTuple):
    """Generated models of one architecture.

    Args:
        config: of their family.
        parameters: `{name: [M, *shape]}`.
        columns: what they were conditioned on, one entry a model each, for the model table.
    """

    config: FamilyConfig
    parameters: Parameters
    columns: dict[str, Any]


class HypernetworkModule(nn.Module, ABC):
    """A network whose outputs are the parameters of other networks, built as `module(target, config)`.

    Subclasses define `forward`, `objective` (or their own `fit`) and `samples`.
    """

    target: Target

    @abstractmethod
    def forward(self, conditioning: Any) -> Parameters:
        """Parameters `{name: [M, *shape]}` of M targets, one for every conditioning."""

    def objective(self, problem: Problem, generator: torch.Generator, batch_size: int) -> Tensor:
        """The loss of one training step; conditionings and data are drawn from `generator`."""
        raise NotImplementedError

    def fit(self, problem: Problem, recipe: Recipe, seed: int, report: Report | None = None) -> None:
        """Train on a problem."""
        generator = torch.Generator().manual_seed(seed)
        descend(self, lambda: self.objective(problem, generator, recipe.batch_size), recipe, report)

    @abstractmethod
    def samples(self, problem: Problem, count: int, generator: torch.Generator) -> Iterator[Generated]:
        """About `count` models for the zoo, grouped by architecture."""


def descend(module: nn.Module, loss: Callable[[], Tensor], recipe: Recipe, report: Report | None = None) -> list[float]:
    """Minimise `loss()` over a module's trainable parameters by the recipe's optimizer, with a cosine schedule.

    Returns:
        the loss before every step.
    """
    leaves = [parameter for parameter in module.parameters() if parameter.requires_grad]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(leaves, rate, weight_decay=decay)
        if recipe.optimizer == "adam"
        else torch.optim.SGD(leaves, rate, momentum=0.9, weight_decay=decay)
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    curve = []
    for step in range(recipe.steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        if recipe.gradient_clip:
            nn.utils.clip_grad_norm_(leaves, recipe.gradient_clip)
        optimizer.step()
        schedule.step()
        curve.append(float(value.detach()))
        if report:
            report(step + 1, curve[-1])
    return curve


@dataclass(frozen=True)
class Hypernetwork:
    """A registered hypernetwork.

    Args:
        name: unique, snake_case; the file has the same name.
        module: built as `module(target, config)`.
        config: its config class; `config()` is a sensible member.
        paper: the paper it implements.
        conditioning: what it maps to parameters, in words.
        summary: one sentence.
        recipe: default training.
        tiny: config fields of a small member, for tests.
        family: the family its targets belong to, None for any.
    """

    name: str
    module: Callable[[Target, Any], HypernetworkModule]
    config: type[HypernetworkConfig]
    paper: Paper
    conditioning: str
    summary: str
    recipe: Recipe
    tiny: Mapping[str, Any]
    family: str | None = None

    def configure(self, fields: Mapping[str, Any]) -> HypernetworkConfig:
        """The config with these fields; raises `UserError` for an unknown key or a value that does not fit."""
        return configured(self.config, fields, "config key", ("hypernetwork", self.name))

    def build(self, target: Target, config: HypernetworkConfig, seed: int) -> HypernetworkModule:
        """A freshly initialised hypernetwork; torch's generator is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.module(target, config)


_REGISTRY = Registry[Hypernetwork]("hypernetwork", "metanets.hyper")


def register(hypernetwork: Hypernetwork) -> Hypernetwork:
    """Add a hypernetwork to the registry; raises `ValueError` for a taken name or a wrong file name."""
    _REGISTRY.add(hypernetwork.name, hypernetwork, hypernetwork.config.__module__)
    return hypernetwork


def hypernetworks() -> dict[str, Hypernetwork]:
    """Every registered hypernetwork by name, sorted."""
    return _REGISTRY.all()


def hypernetwork(name: str) -> Hypernetwork:
    """The hypernetwork of that name; raises `UserError` with the nearest name when there is none."""
    return _REGISTRY.find(name)


def implemented_papers() -> dict[str, list[str]]:
    """Rows of the paper catalogue that registered hypernetworks implement."""
    found: dict[str, list[str]] = {}
    for each in hypernetworks().values():
        if each.paper.row:
            found.setdefault(each.paper.row, []).append(f"hypernetwork {each.name}")
    return found
