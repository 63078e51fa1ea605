"""The contract of a task on weights: what is learned from a population is no column of its model table.

A weight task is one file under `metanets/weight_tasks/` with one registration; the registry walks that folder, and
`metazoo weight-task NAME ZOO POPULATION` finds it. It makes an `Experiment` of a population and a metanet: a network, a loss, and
what is measured on the test split. How it is trained and kept is the same for all of them: `metanets.weight_board`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from metanets.batching import Models
from metanets.metanet import MetanetModule, metanet
from metanets.training.config import TrainingConfig
from metanets.training.data import FEWEST, PopulationBlock
from modelzoo.configured import configured
from modelzoo.errors import UserError
from modelzoo.family import Paper
from modelzoo.key_values import read_key_values
from modelzoo.registry import Registry
from modelzoo.store import Zoo

Metrics = dict[str, float]


@dataclass(frozen=True)
class Experiment:
    """A task on one population with one metanet.

    Args:
        network: what is trained, freshly initialised.
        loss: of training items `[n]`; everything random in it comes from torch's own generator, which is seeded every step.
        items: what is trained on and validated on, `{"train": [n], "validation": [m]}`; rows of the models for most tasks.
        measure: metrics of the network as it is, on the test split.
        baselines: metrics of methods that learn nothing from the population by gradients, by name.
        sample: `models -> {name: [models, *shape]}` new models, for tasks that make some.
    """

    network: nn.Module
    loss: Callable[[Tensor], Tensor]
    items: Mapping[str, Tensor]
    measure: Callable[[], Metrics]
    baselines: Callable[[], dict[str, Metrics]]
    sample: Callable[[int], dict[str, Tensor]] | None = None


class TaskConfig(BaseModel):
    """Base of the configs of tasks: frozen, unknown fields refused; without fields of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class WeightTask:
    """A registered task.

    Args:
        name: unique, snake_case; the file has the same name.
        prepare: `(block, training config, **fields of the task's config) -> Experiment`; raises `UserError` for models or
            metanets that do not fit.
        summary: one sentence.
        metric: the one of the metrics that counts.
        higher_is_better: its direction.
        paper: where the task comes from, None for none.
        metanet: the default.
        recipe: training settings that suit it better than the defaults, where neither user nor metanet names any.
        config: its fields with their values; the registered ones are the defaults.
    """

    name: str
    prepare: Callable[..., Experiment]
    summary: str
    metric: str
    higher_is_better: bool
    paper: Paper | None = None
    metanet: str = "graph_metanet"
    recipe: Mapping[str, Any] = field(default_factory=dict)
    config: TaskConfig = field(default_factory=TaskConfig)

    @property
    def fields(self) -> list[str]:
        """Its fields as they are written, `key=value`."""
        return [f"{key}={json.dumps(value)}" for key, value in self.config.model_dump().items()]

    @property
    def text(self) -> str:
        """Its name and the fields that are not as by default: `dilate,expansion=32`."""
        plain = replace(self, config=type(self.config)()).fields
        return ",".join([self.name, *(each for each in self.fields if each not in plain)])

    def configure(self, fields: Mapping[str, Any]) -> "WeightTask":
        """The task with these fields; raises `UserError` for an unknown one or a value that does not fit."""
        if fields and not type(self.config).model_fields:
            raise UserError(f"weight task {self.name!r} has no fields, got {next(iter(fields))!r}; leave it out.", 2)
        return replace(self, config=configured(type(self.config), fields, "field", ("weight task", self.name)))

    def experiment(self, block: PopulationBlock, config: TrainingConfig) -> Experiment:
        """What `prepare` makes, initialised by the config's seed; torch's generator is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return self.prepare(block, config, **self.config.model_dump())


# Fields of readings that enter no outputs of edges or neurons.
EMBEDDED_ONLY = ("probes", "lattice", "principal", "feature_machine")
_REGISTRY = Registry[WeightTask]("weight task", "metanets.weight_tasks", "metazoo weight-tasks")


def register(task: WeightTask, file: str) -> WeightTask:
    """Add a task to the registry; raises `ValueError` for a taken name or a wrong file name."""
    _REGISTRY.add(task.name, task, file)
    return task


def weight_tasks() -> dict[str, WeightTask]:
    """Every registered task by name, sorted."""
    return _REGISTRY.all()


def weight_task(text: str) -> WeightTask:
    """The task `NAME[,field=value…]`; raises `UserError` with the nearest name when there is none, and for fields that do not fit."""
    name, *pairs = text.split(",")
    return _REGISTRY.find(name).configure(read_key_values(pairs, "a weight task"))


def read_block(zoo: Zoo, population: str) -> PopulationBlock:
    """The models of a population whose training did not diverge.

    Raises:
        UserError: a split has too few of them.
    """
    table = zoo[population].table
    table = table[table["status"] == "ok"] if len(table) else table
    for split, least in FEWEST.items():
        count = int((table["split"] == split).sum()) if len(table) else 0
        if count < least:
            raise UserError(f"the {split} split of {population!r} has {count} usable models, a weight task needs at least {least}; populate more models.")  # fmt: skip
    return PopulationBlock.read(zoo[population], table)


def split_rows(block: PopulationBlock, split: str) -> Tensor:
    """Rows of a split."""
    return torch.from_numpy(np.flatnonzero(block.table["split"] == split))


def items_of(block: PopulationBlock) -> dict[str, Tensor]:
    """The rows that are trained and validated on."""
    return {split: split_rows(block, split) for split in ("train", "validation")}


def checkpoint_values(block: PopulationBlock, checkpoint: int) -> Tensor:
    """Edge values `[E, M]` of all models at a checkpoint; raises `UserError` where it is not there."""
    rows = block.population.positions(block.table.index)
    return block.structure.values(block.population.stacked(rows, checkpoint, "state")).T.contiguous()


def build(config: TrainingConfig, training: Models) -> MetanetModule:
    """The metanet of a config, fitted to an architecture and calibrated.

    Readings that enter embeddings, but no outputs of edges or neurons, are off unless they are set by hand: answers of the
    models (probes, a lattice), principal messages and a kernel regression on statistics.
    """
    found = metanet(config.metanet)
    fields: dict[str, Any] = {name: 0 for name in EMBEDDED_ONLY if name in found.config.model_fields}
    fields.update(config.fields)
    network = found.build(found.configure({**fields, **found.adapt([training], fields)}), config.seed)
    network.prepare([training])
    return network


def mean_and_error(name: str, values: Tensor) -> Metrics:
    """The mean over models `[M]` as the metric of that name, with its standard error."""
    return {name: float(values.mean()), "standard error": float(values.std()) / sqrt(len(values))}
