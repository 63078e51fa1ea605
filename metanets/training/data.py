"""Populations of a zoo as training data of a metanet: one block an architecture, splits as in the zoo."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import graphs
from graphs import GraphStructure, SymmetryGroup
from metanets.batching import ModelFunction, Models, Topology
from metanets.runs import Kind
from metanets.training.augmentation import Sample, augmentation
from metanets.training.augmentation import augment as apply
from metanets.training.reading import (
    BUFFER_BYTES,
    ChunkShuffle,
    DataMode,
    Reading,
    Shuffle,
    Streamed,
    model_bytes,
    reading,
)
from modelzoo.errors import UnknownNameError, UserError
from modelzoo.store import Population, Zoo
from modelzoo.training.config import SPLITS

UNUSED = "unused"  # training models that are left out
TOGETHER = 64  # models that baselines read at once
FEWEST_SAMPLED = 64  # models that statistics are read off
FEWEST = {"train": 4, "validation": 2, "test": 2}
Batch = list[tuple[Models, Tensor]]


@dataclass(frozen=True)
class PopulationBlock:
    """The models of one population that are learned from.

    Args:
        population: where they come from.
        group: the symmetry group of the architecture.
        structure: its parameter graph.
        reading: how their weights are reached.
        table: the rows of the model table, in the same order.
    """

    population: Population
    group: SymmetryGroup
    structure: GraphStructure
    reading: Reading
    table: pd.DataFrame

    @classmethod
    def read(
        cls, population: Population, table: pd.DataFrame, mode: DataMode = "memory", room: int = BUFFER_BYTES
    ) -> "PopulationBlock":
        """The models of some rows of the model table.

        Args:
            population: where they are.
            table: the rows.
            mode: whether their weights are in memory, mapped or streamed.
            room: bytes of weights that stay in memory, where they are streamed.
        """
        group = graphs.infer(graphs.trace(population.template(), population.example_inputs()))
        found = reading(mode, population, population.positions(table.index), room)
        return cls(population, group, graphs.graph_structure(group), found, table)

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """Parameters and buffers of all of them, `{name: [M, *shape]}`, in memory."""
        return self.reading.everything()

    @cached_property
    def values(self) -> Tensor:
        """`[E, M]` edge values of all of them, in memory."""
        return self.structure.values(self.tensors).T.contiguous()

    @cached_property
    def topology(self) -> Topology:
        """The parameter graph, laid out for metanets."""
        return Topology.of_group(self.group, self.structure)

    @property
    def function(self) -> ModelFunction | None:
        """All the models as functions, None where they do not take one real tensor."""
        return self._function(self.tensors) if self._evaluable else None

    @cached_property
    def _evaluable(self) -> bool:
        classes, inputs = self.population.task.inputs.classes, self.population.example_inputs()
        return classes is None and len(inputs) == 1 and self.population.family.not_vmappable is None

    @cached_property
    def _template(self) -> nn.Module:
        return self.population.template()

    def _function(self, tensors: Mapping[str, Tensor]) -> ModelFunction:
        task = self.population.task
        classes = task.targets.kind == "classes"
        return ModelFunction(self._template, tensors, task.inputs.shape, lambda: task.data().train.inputs[0], classes)

    def batches(self) -> tuple[Tensor, ...]:
        """Rows of all models in order, a few at a time."""
        return torch.arange(len(self.table)).split(TOGETHER)

    def models(self, rows: Tensor) -> Models:
        """Some of the models."""
        tensors = self.reading.take(rows)
        return self._models(self.structure.values(tensors), tensors)

    def augmented(
        self, rows: Tensor, targets: Tensor, classes: int, augment: Mapping[str, float], generator: torch.Generator
    ) -> tuple[Models, Tensor]:
        """Some of the models with their targets after augmentations that apply to this architecture.

        Args:
            rows: of the models.
            targets: `[M]`.
            classes: number of classes, 0 for numbers.
            augment: strengths of augmentations by name.
            generator: of everything random.
        """
        sample = apply(Sample(self.topology, self.reading.take(rows), targets, classes), augment, generator)
        return self._models(sample.values, sample.tensors), sample.targets

    def _models(self, values: Tensor, tensors: Mapping[str, Tensor]) -> Models:
        return Models(self.topology, values.T.contiguous(), self._function(tensors) if self._evaluable else None)


def seed_of(*numbers: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def check_column(table: pd.DataFrame, column: str) -> None:
    """Raise `UserError` where a table has no such column."""
    if column not in table.columns:
        raise UnknownNameError("column", column, map(str, table.columns))


class WeightData(lightning.LightningDataModule):
    """Models of a zoo and a column to predict.

    Args:
        zoo: an open zoo.
        populations: names of populations.
        target: column of the model table.
        kind: classification or regression; None chooses by the column.
        batch_size: models a step.
        augment: augmentations of training by name, with their strengths.
        seed: of the batches.
        check: whether the column and the splits must suffice for a training.
        mode: whether weights are in memory, mapped or streamed.
        models: how many of the training models are learned from, at even distances; the split of the others becomes
            `unused`. None for all.

    Raises:
        UserError: a population or the column is missing, the column is constant, or a split has too few models.
    """

    def __init__(
        self, zoo: Zoo, populations: Sequence[str], target: str, kind: Kind | None = None, batch_size: int = 64,
        augment: Mapping[str, float] = MappingProxyType({}), seed: int = 0, check: bool = True,
        mode: DataMode = "memory", models: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if not populations:
            raise UserError(f"name at least one population; metazoo ls {zoo.path} lists them.", 2)
        if len(set(populations)) != len(populations):
            raise UserError("a population is named twice; name each once.", 2)
        self.snapshot, self.target, self.batch_size, self.augment = zoo.snapshot_id, target, batch_size, augment
        self.seed, self.room = seed, BUFFER_BYTES // len(populations)
        self.diverged, tables = 0, []
        for name in populations:
            table = zoo[name].table
            if not len(table):
                raise UserError(f"population {name!r} has no models yet; go on with its metazoo populate command.")
            check_column(table, target)
            usable = (table["status"] == "ok") & table[target].notna()
            self.diverged += int((table["status"] != "ok").sum())
            tables.append(table[usable])
        column = pd.concat([table[target] for table in tables])
        numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        if kind == "regression" and not numeric:
            raise UserError(f"column {target!r} holds text, which cannot be regressed; use --kind classification.", 2)
        self.kind: Kind = kind or ("classification" if target == "label" or not numeric else "regression")
        if check:
            self._check(column, pd.concat([table["split"] for table in tables]))
        learnable = int((pd.concat([table["split"] for table in tables]) == "train").sum())
        if models is not None and not FEWEST["train"] <= models <= learnable:
            raise UserError(f"of the {learnable} usable training models at least {FEWEST['train']} and at most all can be learned from, got {models}.", 2)  # fmt: skip
        self.classes = tuple(sorted(column.unique().tolist())) if self.kind == "classification" else ()
        self.blocks = [
            PopulationBlock.read(zoo[name], table, mode, self.room)
            for name, table in zip(populations, tables, strict=True)
        ]
        sizes = [len(block.table) for block in self.blocks]
        self.where = torch.cat([torch.stack([torch.full((n,), b), torch.arange(n)], 1) for b, n in enumerate(sizes)])
        self.table = pd.concat(
            [block.table.assign(population=block.population.name).reset_index() for block in self.blocks],
            ignore_index=True,
        )
        if models is not None:
            self._restrict(models)
        self.targets = self.encode(self.table[target])
        for name in augment:
            if not any(augmentation(name).applies(block.topology) for block in self.blocks):
                raise UserError(
                    f"augmentation {name!r} changes nothing in models of {', '.join(populations)}; leave it out."
                )

    def _check(self, column: pd.Series, split: pd.Series) -> None:
        if column.nunique() < 2:
            value = f" ({column.iloc[0]})" if len(column) else ""
            raise UserError(
                f"column {self.target!r} has one value{value} in all models, so there is nothing to learn; choose another --target."
            )
        for name in SPLITS:
            count = int((split == name).sum())
            if count < FEWEST[name]:
                raise UserError(
                    f"the {name} split has {count} usable models, a metanet needs at least {FEWEST[name]}; populate more models."
                )

    def _restrict(self, models: int) -> None:
        train = self.rows("train")
        kept = np.array(train)[np.linspace(0, len(train) - 1, models).round().astype(int)]
        self.table.loc[np.setdiff1d(train, kept), "split"] = UNUSED

    def encode(self, column: pd.Series) -> Tensor:
        """Targets as tensors: class numbers (-1 for a class not seen before), or float32."""
        if self.kind == "regression":
            return torch.tensor(column.to_numpy(dtype=np.float32))
        return torch.from_numpy(pd.Categorical(column, categories=list(self.classes)).codes.astype(np.int64))

    def rows(self, split: str) -> list[int]:
        """Rows of `table` in a split."""
        return np.flatnonzero(self.table["split"] == split).tolist()

    def collate(self, rows: Sequence[int], augment: Mapping[str, float] | None = None, seed: int = 0) -> Batch:
        """The models of some rows, one entry a population, each with its targets: after mixing, of all or of none
        probabilities of classes."""
        generator = torch.Generator().manual_seed(seed)
        where, chosen = self.where[list(rows)], torch.tensor(rows)
        found = []
        for number, block in enumerate(self.blocks):
            own = where[:, 0] == number
            if own.any() and augment:
                found.append(
                    block.augmented(where[own, 1], self.targets[chosen[own]], len(self.classes), augment, generator)
                )
            elif own.any():
                found.append((block.models(where[own, 1]), self.targets[chosen[own]]))
        return found

    def training_batch(self) -> Batch:
        """Training models of every population with their targets, for statistics: at even distances, where all would not
        fit into a buffer."""
        train, found = torch.tensor(self.rows("train")), []
        for number, block in enumerate(self.blocks):
            rows = train[self.where[train, 0] == number]
            if len(rows):
                fitting = max(FEWEST_SAMPLED, self.room // model_bytes(block.population))
                rows = rows[torch.linspace(0, len(rows) - 1, min(fitting, len(rows))).long()]
                found.append((block.models(self.where[rows, 1]), self.targets[rows]))
        return found

    def _order(self, rows: Sequence[int]) -> Shuffle:
        """How training models are shuffled."""
        streams = [block.reading for block in self.blocks if isinstance(block.reading, Streamed)]
        if not streams:
            return Shuffle(len(rows), self.seed)
        first = np.cumsum([0, *(len(stream.population) // stream.chunk + 1 for stream in streams)])
        chunks = np.concatenate([stream.chunks.numpy() + n for stream, n in zip(streams, first[:-1], strict=True)])
        return ChunkShuffle(chunks[list(rows)], min(stream.most for stream in streams), self.seed)

    def train_dataloader(self) -> DataLoader[Any]:
        """Training models, shuffled anew every epoch; a last batch of one model is dropped."""
        rows: Any = self.rows("train")
        drop = len(rows) % self.batch_size == 1
        order = self._order(rows)
        return DataLoader(
            rows, self.batch_size, sampler=order, drop_last=drop,
            collate_fn=lambda batch: self.collate(batch, self.augment, seed_of(self.seed, order.epoch, batch[0])),
        )  # fmt: skip

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation models in order."""
        rows: Any = self.rows("validation")
        return DataLoader(rows, 4 * self.batch_size, collate_fn=self.collate)
