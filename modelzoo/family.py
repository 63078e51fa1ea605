"""Contract 1, the family: one architecture, one file under `modelzoo/families/<group>/`, one registration.

The registry walks that folder; nothing else has to be edited when a family is added. Every registered family is swept
by the same tests (`tests/test_sweep.py`): it trains past its task's trivial baseline, goes through the zoo bit-equal,
is traced to a program whose inferred symmetry leaves its function unchanged, and is embedded by a metanet.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from modelzoo.configured import configured
from modelzoo.errors import UnknownNameError, UserError
from modelzoo.registry import Registry
from modelzoo.task import Kind, Task, TaskData

GROUPS = (
    "feedforward", "fields", "convolutional", "recurrent", "statespace", "attention", "recursive", "graph", "tensor",
    "operator", "continuous", "memory", "geometric", "composed",
)  # fmt: skip


class FamilyConfig(BaseModel):
    """Base of every family's config: frozen, JSON round-trip, unknown keys refused.

    Sizes that follow from the task (`in_features`, `classes`, …) are ordinary fields; `Family.configure` fills them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


class Recipe(BaseModel):
    """How a family is trained by default.

    Args:
        steps: optimizer steps.
        batch_size: samples a step for minibatch tasks.
        optimizer: `adam` (decoupled weight decay, i.e. AdamW) or `sgd` (momentum 0.9).
        learning_rate: step size.
        weight_decay: decoupled weight decay.
        gradient_clip: largest gradient norm per model, None for no clipping.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = 500
    batch_size: int = 64
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    gradient_clip: float | None = None


@dataclass(frozen=True)
class Paper:
    """The paper a family, metanet or analysis implements.

    Args:
        title: the full title.
        authors: as far as sure ("Sitzmann et al.").
        year: of publication.
        row: id of the row of the catalogue (`S010`), or None for a paper outside it.
    """

    title: str
    authors: str
    year: int
    row: str | None = None

    def __str__(self) -> str:
        return f"{self.title} ({self.authors}, {self.year})"


@dataclass(frozen=True)
class Perceptron:
    """A module that is h_l = act(ω (W_l h_{l-1} + b_l)), y = W_L h_{L-1} + b_L; such populations train in one operation.

    Args:
        layers: names of the linear layers in order; their parameters `<layer>.weight` and `<layer>.bias` are all there are.
        activation: of all layers but the last.
        frequency: ω.
    """

    layers: tuple[str, ...]
    activation: Literal["relu", "tanh", "sin", "gelu"]
    frequency: float = 1.0


@dataclass(frozen=True)
class Family:
    """A registered architecture.

    Args:
        name: unique, snake_case; the file has the same name.
        module: the `torch.nn.Module`, built as `module(config)`; parameters are initialised from the global generator.
        config: the config class; `config()` must fit the default task.
        task: name of the default task.
        accepts: kinds of input that the module takes.
        predicts: kinds of target that it can produce (`classes`, `vector`, …).
        adapt: `(task) -> fields` the config fields that follow from a task's shapes (`in_features`, `classes`, …); may
            raise `UserError` naming the shapes that clash.
        paper: the paper it implements.
        equation: the forward pass in one line.
        symmetry: the parameter symmetry known from theory, in words (the inferred group is compared with it).
        recipe: default training.
        tiny: config fields of the smallest sensible member, for tests.
        tiny_recipe: training of the tiny member that gets well past the trivial baseline in a few CPU seconds.
        margin: by how much of the metric the tiny member must beat the trivial baseline.
        variants: named configs, addressed as `family.variant`.
        not_vmappable: None, or the reason why models of this family train one by one.
        fit: None, or `(module, data, seed) -> None` for families that are fitted in one shot instead of by gradient.
        perceptron: None, or `(config) -> Perceptron` where the modules are plain perceptrons on one vector.
        limits: sweep test → reason, for tests that cannot apply ("gradient": "weights are set by one Hebbian pass").
    """

    name: str
    module: Callable[[Any], nn.Module]
    config: type[FamilyConfig]
    task: str
    accepts: frozenset[Kind]
    predicts: frozenset[Kind]
    adapt: Callable[[Task], dict[str, Any]]
    paper: Paper
    equation: str
    symmetry: str
    recipe: Recipe
    tiny: Mapping[str, Any]
    tiny_recipe: Recipe
    margin: float
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    not_vmappable: str | None = None
    fit: Callable[[nn.Module, TaskData, int], None] | None = None
    perceptron: Callable[[Any], Perceptron] | None = None
    limits: Mapping[str, str] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """The folder the family lives in, its kind of architecture."""
        return str(self.config.__module__).split(".")[-2]

    @property
    def summary(self) -> str:
        """First line of the module's docstring."""
        return (self.module.__doc__ or "").strip().splitlines()[0]

    def configure(self, task: Task, fields: Mapping[str, Any] | None = None) -> FamilyConfig:
        """The config for a task, with `fields` set by hand on top.

        Raises:
            UserError: the family does not take the task's data, or a key or value of `fields` is not valid.
        """
        if task.inputs.kind not in self.accepts:
            raise UserError(
                f"family {self.name!r} takes {' or '.join(sorted(self.accepts))} but task {task.name!r} gives "
                f"{task.inputs}; choose another task (metazoo tasks) or family (metazoo families).", 2)  # fmt: skip
        if task.targets.kind not in self.predicts:
            raise UserError(
                f"family {self.name!r} predicts {' or '.join(sorted(self.predicts))} but task {task.name!r} asks for "
                f"{task.targets}; choose another task (metazoo tasks) or family (metazoo families).", 2)  # fmt: skip
        return configured(self.config, {**self.adapt(task), **(fields or {})}, "config key", ("family", self.name))

    def build(self, config: FamilyConfig, seed: int) -> nn.Module:
        """A freshly initialised module; the same seed gives the same parameters and torch's generator is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.module(config)


_REGISTRY = Registry[Family]("family", "modelzoo.families", "metazoo families")


def register(family: Family) -> Family:
    """Add a family to the registry; raises `ValueError` for a taken name, a wrong folder or file, or missing docs."""
    if family.group not in GROUPS:
        raise ValueError(f"family {family.name!r} lives in {family.group!r}; the groups are {', '.join(GROUPS)}")
    if not family.module.__doc__:
        raise ValueError(f"family {family.name!r} has no docstring")
    _REGISTRY.add(family.name, family, family.config.__module__)
    return family


def families() -> dict[str, Family]:
    """Every registered family by name, sorted."""
    return _REGISTRY.all()


def family(name: str) -> Family:
    """The family of that name; raises `UserError` with the nearest name when there is none."""
    return _REGISTRY.find(name)


def resolve(name: str) -> tuple[Family, dict[str, Any]]:
    """Split `family.variant` into the family and the variant's config fields (`{}` for the plain family)."""
    head, _, variant = name.partition(".")
    found = family(head)
    if not variant:
        return found, {}
    if variant not in found.variants:
        raise UnknownNameError(f"variant of {head}", variant, found.variants, "metazoo families")
    return found, dict(found.variants[variant])


def parameter_count(module: nn.Module) -> int:
    """Number of trainable scalars of a module (a complex entry counts as two)."""

    def scalars(parameter: Tensor) -> int:
        return parameter.numel() * (2 if parameter.is_complex() else 1)

    return sum(scalars(p) for p in module.parameters())
