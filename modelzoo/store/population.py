"""A population: the models of a zoo that share family and config."""

from collections.abc import Sequence
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
from modelzoo.store import arrays
from modelzoo.store.cache import memory_mapped
from modelzoo.store.query import select
from modelzoo.store.records import Kind, ModelBatch, PopulationInfo
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
        found = (attributes.get("encoding-type"), attributes.get("encoding-version"))
        if found != tuple(ENCODING.values()):
            raise UserError(f"population {self.name!r} has the encoding {found}, this version of metazoo reads {tuple(ENCODING.values())}.")  # fmt: skip
        self.info = PopulationInfo.model_validate(attributes["population"])
        self._table: pd.DataFrame | None = None

    def __len__(self) -> int:
        return self.array("columns/id").shape[0] if "columns/id" in self.group else 0

    def __repr__(self) -> str:
        return f"Population({self.name!r}, family={self.info.family!r}, models={len(self)})"

    def array(self, path: str) -> zarr.Array[Any]:
        """The Zarr array at `params/…`, `buffers/…`, `metrics/…` or `columns/…`."""
        found = self.group[path]
        assert isinstance(found, zarr.Array)
        return found

    def paths(self) -> list[str]:
        """Paths of all arrays, sorted."""
        folders = sorted(self.group.groups())
        return [f"{folder}/{name}" for folder, group in folders for name in sorted(group.array_keys())]

    def _read(self, path: str, selection: Any = slice(None)) -> NDArray[Any]:
        try:
            return arrays.to_numpy(self.array(path), selection)
        except (ValueError, RuntimeError, OSError) as error:
            if not _is_damage(error):
                raise
            from modelzoo.store.integrity import damaged_models

            models = ", ".join(map(str, damaged_models(self, path)))
            raise UserError(
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
        step = self._checkpoint(checkpoint)
        if rows is not None and not isinstance(rows, slice):
            rows = np.asarray(rows)
            rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        found = {}
        for path, (of_kind, info) in self.info.tensors.items():
            if kind not in (of_kind, "state"):
                continue
            if rows is None or isinstance(rows, slice):
                values = self._read(path, (rows if rows is not None else slice(None), step))
            else:
                values = memory_mapped(self, path)[rows, step]
            found[info.name] = torch.from_numpy(np.ascontiguousarray(values))
        return found

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
        state = {name: value[0] for name, value in self.stacked(slice(row, row + 1), checkpoint, "state").items()}
        module.load_state_dict(state, strict=False)
        return module

    def append(self, batch: ModelBatch, message: str | None = None) -> None:
        """Add models in one commit; raises `UserError` for ids that are there, `ValueError` for wrong shapes."""
        values = batch.arrays()
        self._check(values)
        with self.zoo.transaction(message or f"add {len(batch)} models to {self.name}") as root:
            group = root[self.name]
            assert isinstance(group, zarr.Group)
            for path, array in values.items():
                target = group[path] if path in group else arrays.create(group, path, array)
                assert isinstance(target, zarr.Array)
                arrays.extend(target, array)
        self.refresh()

    def _check(self, values: dict[str, NDArray[Any]]) -> None:
        expected = {
            path: (len(self.info.checkpoint_steps), *info.shape) for path, (_, info) in self.info.tensors.items()
        }
        given = {path: values[path].shape[1:] for path in values if path.startswith(("params/", "buffers/"))}
        if given != expected:
            wrong = sorted(path for path in {*given, *expected} if given.get(path) != expected.get(path))
            raise ValueError(f"arrays {wrong} do not fit the manifest of population {self.name!r}")
        ids = values["columns/id"]
        if len(self):
            if set(values) != set(self.paths()):
                raise ValueError(
                    f"the batch must have the same arrays as before: {sorted({*values} ^ {*self.paths()})}"
                )
            taken = self.table.index.intersection(pd.Index(ids))
            if len(taken):
                raise UserError(f"population {self.name!r} already has model {taken[0]}; nothing was written.")
        if len(np.unique(ids)) != len(ids):
            raise UserError(f"two models of the batch for {self.name!r} have the same id; nothing was written.")

    def delete_models(self, ids: Sequence[int] | pd.Index) -> None:
        """Remove models by id in one commit; the history keeps them."""
        gone = self.positions(ids)
        keep = np.setdiff1d(np.arange(len(self)), gone)
        kept = {path: self._read(path)[keep] for path in self.paths()}
        with self.zoo.transaction(f"delete {len(gone)} models of {self.name}") as root:
            group = root[self.name]
            assert isinstance(group, zarr.Group)
            for path, values in kept.items():
                del group[path]
                arrays.extend(arrays.create(group, path, values), values)
        self.refresh()

    def copy_arrays(self, group: zarr.Group) -> None:
        """Write all arrays into another population's group, a shard of models at a time."""
        step = arrays.CHUNK_MODELS * arrays.SHARD_CHUNKS
        for path in self.paths():
            for start in range(0, len(self), step):
                values = self._read(path, slice(start, start + step))
                target = group[path] if start else arrays.create(group, path, values)
                assert isinstance(target, zarr.Array)
                arrays.extend(target, values)

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


def _is_damage(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, RuntimeError) or any(
        word in text for word in ("crc", "checksum", "zstd", "decod", "not found")
    )
