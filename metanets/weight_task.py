"""The contract of a task on weights: what is learned from a population is no column of its model table.

A weight task is one file under `metanets/weight_tasks/` with one registration; the registry walks that folder, and
`metazoo weight-task NAME ZOO POPULATION` finds it. It trains on the train split of the zoo and reports the test split, beside
what has learned nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metanets.batching import Models
from metanets.metanet import MetanetModule, metanet
from metanets.training.config import TrainingConfig
from metanets.training.data import FEWEST, PopulationBlock
from metanets.training.module import adamw
from modelzoo.errors import UserError
from modelzoo.family import Paper
from modelzoo.registry import Registry
from modelzoo.store import Zoo

Row = dict[str, Any]


@dataclass(frozen=True)
class WeightTask:
    """A registered task.

    Args:
        name: unique, snake_case; the file has the same name.
        measure: `(block, config) -> rows`, one row a method: what was trained, and baselines.
        summary: one sentence.
        metric: the column of the rows that counts.
        higher_is_better: its direction.
        paper: where the task comes from, None for none.
    """

    name: str
    measure: Callable[[PopulationBlock, TrainingConfig], list[Row]]
    summary: str
    metric: str
    higher_is_better: bool
    paper: Paper | None = None


_REGISTRY = Registry[WeightTask]("weight task", "metanets.weight_tasks", "metazoo weight-tasks")


def register(task: WeightTask, file: str) -> WeightTask:
    """Add a task to the registry; raises `ValueError` for a taken name or a wrong file name."""
    _REGISTRY.add(task.name, task, file)
    return task


def weight_tasks() -> dict[str, WeightTask]:
    """Every registered task by name, sorted."""
    return _REGISTRY.all()


def weight_task(name: str) -> WeightTask:
    """The task of that name; raises `UserError` with the nearest name when there is none."""
    return _REGISTRY.find(name)


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


def checkpoint_values(block: PopulationBlock, checkpoint: int) -> Tensor:
    """Edge values `[E, M]` of all models at a checkpoint; raises `UserError` where it is not there."""
    rows = block.population.positions(block.table.index)
    return block.structure.values(block.population.stacked(rows, checkpoint, "state")).T.contiguous()


def build(config: TrainingConfig, training: Models) -> MetanetModule:
    """The metanet of a config, fitted to an architecture and calibrated."""
    found = metanet(config.metanet)
    network = found.build(found.configure({**config.fields, **found.adapt([training], config.fields)}), config.seed)
    network.calibrate([training])
    return network


def fit(network: nn.Module, loss: Callable[[Tensor], Tensor], rows: Tensor, config: TrainingConfig) -> None:
    """Train with AdamW, a warm-up of a tenth of the steps and cosine decay; in evaluation mode afterwards.

    Args:
        network: what is trained.
        loss: of some rows.
        rows: `[n]`, shuffled every epoch; a last batch of one row is left out.
        config: epochs, batch size, step size, weight decay (on matrices), gradient clip and seed.

    Raises:
        UserError: the loss is no finite number any more.
    """
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = adamw(network, config)
    batches = [b for b in rows.split(config.batch_size) if len(b) > 1]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, epochs=config.epochs, steps_per_epoch=len(batches), pct_start=0.1,
        cycle_momentum=False,
    )  # fmt: skip
    network.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # dropout
        for _ in range(config.epochs):
            order = rows[torch.randperm(len(rows), generator=generator)]
            for batch in order.split(config.batch_size)[: len(batches)]:
                value = loss(batch)
                if not value.isfinite():
                    raise UserError(f"training diverged; lower --learning-rate (it is {config.learning_rate:g}).")
                optimizer.zero_grad()
                value.backward()
                nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
                optimizer.step()
                schedule.step()
    network.eval()
