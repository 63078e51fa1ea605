"""A population: the models of a zoo that share family and config."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import xarray
import zarr
from numpy.typing import NDArray
from torch import Tensor, nn

from modelzoo.errors import UnknownNameError, UserError
from modelzoo.family import Family, FamilyConfig, family
from modelzoo.store import arrays, cache
from modelzoo.store.query import select
from modelzoo.store.records import Kind, ModelBatch, PopulationInfo, check_encoding, manifest
from modelzoo.task import Task, task

if TYPE_CHECKING:
    from modelzoo.store.zoo import Zoo

ENCODING = {"encoding-type": "metazoo-population", "encoding-version": "1.0.0"}
Rows = slice | Sequence[int] | NDArray[Any] | Tensor | None


class Population:
    """One population as it was when this object was made; `refresh()` moves it to the newest snapshot.

    Rows are positions 0 … len-1 in the model table; `table.index` holds the models' ids.
    """

    def __init__(self, zoo: "Zoo", name: str) -> None:
        self.zoo = zoo
        self.name = name
        self.refresh()

    def refresh(self) -> None:
        """Read the newest snapshot from now on."""
        session = self.zoo.session()
        self.snapshot_id = str(session.snapshot_id)
        self.group = zarr.open_group(session.store, path=self.name, mode="r")
        attributes = dict(self.group.attrs)
        check_encoding(f"population {self.name!r}", attributes, ENCODING)
        self.info = PopulationInfo.model_validate(attributes["population"])
        self._arrays = arrays.open_all(self.group)
        self._held: dict[str, NDArray[Any]] = {}  # see cache.memory_mapped
        self._table: pd.DataFrame | None = None

    def __len__(self) -> int:
        return self._arrays["columns/id"].shape[0] if "columns/id" in self._arrays else 0

    def __repr__(self) -> str:
        return f"Population({self.name!r}, family={self.info.family!r}, models={len(self)})"

    def array(self, path: str) -> zarr.Array[Any]:
        """The Zarr array at `params/…`, `buffers/…`, `metrics/…` or `columns/…`."""
        return self._arrays[path]

    def paths(self) -> list[str]:
        """Paths of all arrays, sorted."""
        return list(self._arrays)

    def _read(self, path: str, selection: Any = slice(None), array: zarr.Array[Any] | None = None) -> NDArray[Any]:
        try:
            return arrays.to_numpy(self.array(path) if array is None else array, selection)
        except arrays.UNREADABLE as error:
            if isinstance(error, ValueError) and "checksum" not in str(error):
                raise
            from modelzoo.store.integrity import damaged_models

            models = shown(damaged_models(self, path))
            raise DamagedError(
                f"array {path!r} of population {self.name!r} is damaged (models {models}); the rest is readable, metazoo verify "
                "lists all damage and metazoo history the snapshots to go back to.") from None  # fmt: skip

    @property
    def table(self) -> pd.DataFrame:
        """The model table, indexed by `id`."""
        if self._table is None:
            paths = [path for path in self.paths() if path.startswith("columns/")]
            columns = {path.removeprefix("columns/"): self._read(path) for path in paths}
            first = [name for name in ("id", "split", "status", "label", "seed") if name in columns]
            order = first + [name for name in columns if name not in first]
            table = pd.DataFrame({name: columns[name] for name in order} if columns else {"id": np.zeros(0, np.int64)})
            self._table = table.set_index("id")
        return self._table

    def query(self, expression: str) -> pd.DataFrame:
        """Rows of `table` for which the expression holds."""
        return select(self.table.reset_index(), expression).set_index("id")

    def positions(self, ids: Sequence[int] | pd.Index) -> NDArray[np.intp]:
        """Row positions of models given by id; raises `UserError` for an id that is not there."""
        self._check_not_empty()
        found = self.table.index.get_indexer(pd.Index(ids))
        if (found < 0).any():
            missing = pd.Index(ids)[found < 0][0]
            raise UserError(f"population {self.name!r} has no model {missing}; its ids go from {self.table.index.min()} to {self.table.index.max()}.")  # fmt: skip
        return found

    def stacked(self, rows: Rows = None, checkpoint: int = -1, kind: Kind = "parameters") -> dict[str, Tensor]:
        """Parameters of many models at once, `{name: [model, *shape]}`.

        Args:
            rows: positions in the table (slice, integers or a boolean mask), None for all models.
            checkpoint: index into `info.checkpoint_steps`; -1 is the trained model.
            kind: parameters, buffers, or both (`state`).
        """
        step, wanted = self._checkpoint(checkpoint), self._wanted(kind)
        if rows is not None and not isinstance(rows, slice):
            rows = np.asarray(rows)
            rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        self._check_not_empty()
        if rows is None or isinstance(rows, slice):
            values = arrays.together(lambda path: self._read(path, (rows or slice(None), step)), wanted)
        else:
            values = [self._rows(path, rows, step) for path in wanted]
        return {
            name: torch.from_numpy(np.ascontiguousarray(array))
            for name, array in zip(wanted.values(), values, strict=True)
        }

    def mapped(self, checkpoint: int = -1, kind: Kind = "parameters") -> dict[str, Tensor]:
        """Parameters of all models, `{name: [model, *shape]}`, as memory maps of local copies: what is indexed is read.

        Args:
            checkpoint: index into `info.checkpoint_steps`; -1 is the trained model.
            kind: parameters, buffers, or both (`state`).

        Raises:
            UserError: there is no room for the copies.
        """
        step = self._checkpoint(checkpoint)
        self._check_not_empty()
        try:
            return {
                name: torch.from_numpy(cache.mapped(self, path)).select(1, step)
                for path, name in self._wanted(kind).items()
            }
        except OSError as error:
            raise UserError(
                f"cannot copy population {self.name!r} to {str(cache.folder())!r}: {error.strerror}; set METAZOO_CACHE to a folder with room."
            ) from None

    def chunk_models(self, path: str) -> int:
        """How many models of an array are read at once at least."""
        return int(self.array(path).chunks[0])

    def _wanted(self, kind: Kind) -> dict[str, str]:
        """Names of the tensors of a kind by the paths of their arrays."""
        return {path: info.name for path, (of, info) in self.info.tensors.items() if kind in (of, "state")}

    def _check_not_empty(self) -> None:
        if len(self) == 0:
            raise UserError(f"population {self.name!r} has no models yet; run metazoo populate again.")

    def _rows(self, path: str, rows: NDArray[Any], step: int) -> NDArray[Any]:
        try:
            return cache.memory_mapped(self, path)[rows, step]
        except DamagedError:  # somewhere in the array, perhaps not in these rows
            return np.concatenate([self._read(path, (slice(row, row + 1), step)) for row in rows % len(self)])

    def _checkpoint(self, checkpoint: int) -> int:
        count = len(self.info.checkpoint_steps)
        if not -count <= checkpoint < count:
            raise UserError(f"population {self.name!r} has checkpoints 0 to {count - 1}, not {checkpoint}.")
        return checkpoint % count

    def metric_names(self) -> list[str]:
        """Names of the stored curves."""
        return [path.removeprefix("metrics/") for path in self.paths() if path.startswith("metrics/")]

    def metrics(self, name: str) -> NDArray[Any]:
        """One curve a model, `[model, step]`, at `info.metric_steps`."""
        if name not in self.metric_names():
            raise UnknownNameError("metric", name, self.metric_names())
        return self._read(f"metrics/{name}")

    @property
    def family(self) -> Family:
        """The registered family of these models."""
        return family(self.info.family)

    @property
    def config(self) -> FamilyConfig:
        """The config all models of this population share."""
        return self.family.config(**self.info.family_config)

    @property
    def task(self) -> Task:
        """The task they were trained on."""
        return task(self.info.task)

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """A small batch of the task's inputs, for tracing."""
        return self.task.example_inputs(batch)

    def template(self) -> nn.Module:
        """A module of this population's architecture, in evaluation mode; its weights are those of seed 0."""
        return self.family.build(self.config, seed=0).eval()

    def module(self, row: int, checkpoint: int = -1) -> nn.Module:
        """One model, in evaluation mode.

        Args:
            row: position in the table; negative counts from the end.
            checkpoint: index into `info.checkpoint_steps`.
        """
        if not -len(self) <= row < len(self):
            raise UserError(f"population {self.name!r} has {len(self)} models, there is no row {row}.")
        row %= len(self)
        module = self.template()
        if manifest(module) != (self.info.parameters, self.info.buffers):
            raise UserError(
                f"family {self.info.family!r} no longer has the parameters that population {self.name!r} was made with; "
                f"use the versions that wrote it: {self.info.versions}.") from None  # fmt: skip
        state = {name: value[0] for name, value in self.stacked(slice(row, row + 1), checkpoint, "state").items()}
        module.load_state_dict(state, strict=False)  # a tied parameter is stored under its first name only
        return module

    def append(self, batch: ModelBatch, message: str | None = None) -> None:
        """Add models in one commit; raises `UserError` for ids that are there, `ValueError` for wrong shapes."""
        values = batch.arrays()
        self._check_shapes(values)
        with self._writing(message or f"add {len(batch)} models to {self.name}") as group:
            stored = arrays.open_all(group)
            self._check_ids(values, stored)
            if not stored:
                stored = {path: arrays.create(group, path, array) for path, array in values.items()}
            arrays.extend(stored, values)

    @contextmanager
    def _writing(self, message: str) -> Iterator[zarr.Group]:
        """This population's group in its newest state, which other processes may have changed; one commit at the end."""
        with self.zoo.transaction(message) as root:
            group = root.get(self.name)
            if not isinstance(group, zarr.Group):
                raise UserError(f"population {self.name!r} was removed meanwhile; nothing was written.")
            yield group
        self.refresh()

    def _check_shapes(self, values: dict[str, NDArray[Any]]) -> None:
        expected = {
            path: (len(self.info.checkpoint_steps), *info.shape) for path, (_, info) in self.info.tensors.items()
        }
        given = {path: values[path].shape[1:] for path in values if path.startswith(("params/", "buffers/"))}
        if given != expected:
            wrong = sorted(path for path in {*given, *expected} if given.get(path) != expected.get(path))
            raise ValueError(f"arrays {wrong} do not fit the manifest of population {self.name!r}")
        dtypes = {path: info.dtype for path, (_, info) in self.info.tensors.items() if values[path].dtype != info.dtype}
        if dtypes:
            raise ValueError(f"arrays must have the dtypes of the manifest of population {self.name!r}: {dtypes}")
        ids = values["columns/id"]
        if len(np.unique(ids)) != len(ids):
            raise UserError(f"two models of the batch for {self.name!r} have the same id; nothing was written.")

    def _check_ids(self, values: dict[str, NDArray[Any]], stored: dict[str, zarr.Array[Any]]) -> None:
        if not stored:
            return
        if set(values) != set(stored):
            raise ValueError(f"the batch must have the same arrays as before: {sorted({*values} ^ {*stored})}")
        taken = np.intersect1d(values["columns/id"], arrays.to_numpy(stored["columns/id"], slice(None)))
        if len(taken):
            raise UserError(f"population {self.name!r} already has model {taken[0]}; nothing was written.")

    def delete_models(self, ids: Sequence[int] | pd.Index) -> None:
        """Remove models by id in one commit; the history keeps them."""
        gone = self.table.index[self.positions(ids)]
        with self._writing(f"delete {len(gone)} models of {self.name}") as group:
            stored = arrays.open_all(group)
            keep = ~np.isin(self._read("columns/id", array=stored["columns/id"]), gone)
            for path, array in stored.items():
                values = self._read(path, array=array)[keep]
                del group[path]
                arrays.extend({path: arrays.create(group, path, values)}, {path: values})

    def copy_arrays(self, group: zarr.Group) -> None:
        """Write all arrays into another population's group, some models at a time."""
        for path in self.paths():
            target = None
            for start in range(0, len(self), arrays.TABLE_MODELS):
                values = self._read(path, slice(start, start + arrays.TABLE_MODELS))
                target = target or arrays.create(group, path, values)
                arrays.extend({path: target}, {path: values})

    def to_xarray(self) -> xarray.Dataset:
        """Everything as one dataset with the dimensions model, checkpoint and step; tensors load lazily."""
        store = self.group.store
        variables: dict[str, Any] = {}
        for folder, _ in sorted(self.group.groups()):
            part = xarray.open_zarr(
                store, group=f"{self.name}/{folder}", consolidated=False, zarr_format=3, chunks=None
            )
            variables |= {f"{folder}/{name}": variable for name, variable in part.variables.items()}
        coordinates = {
            "model": self.table.index.to_numpy(),
            "checkpoint": list(self.info.checkpoint_steps),
            "step": list(self.info.metric_steps),
        }
        dimensions = {dimension for variable in variables.values() for dimension in variable.dims}
        dataset = xarray.Dataset(variables, attrs={"population": self.name, "family": self.info.family})
        return dataset.assign_coords({name: value for name, value in coordinates.items() if name in dimensions})


class DamagedError(UserError):
    """Stored bytes cannot be read back; the message names the array and the models."""


def shown(models: Sequence[int], most: int = 10) -> str:
    """Ids in a sentence: `3, 4, 5`, and how many more."""
    return ", ".join(map(str, models[:most])) + (f" and {len(models) - most} more" if len(models) > most else "")
