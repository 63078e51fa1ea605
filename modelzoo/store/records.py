"""What is written into a zoo and what comes back: plain records, no storage code."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from modelzoo.errors import UserError

Kind = Literal["parameters", "buffers", "state"]
STATUSES = ("ok", "diverged")
STORABLE = frozenset({
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32,
    torch.float64, torch.complex64, torch.complex128,
})  # fmt: skip


class TensorInfo(BaseModel):
    """Name, shape and dtype of one parameter or buffer of an architecture."""

    model_config = ConfigDict(frozen=True)

    name: str
    shape: tuple[int, ...]
    dtype: str


class PopulationInfo(BaseModel):
    """What all models of a population share; stored as attributes of its group.

    Args:
        name: name of the population, a valid path segment.
        family: name of the architecture family, without variant.
        family_config: the family's config as JSON.
        task: name of the task the models are trained on.
        training: how they are trained, as JSON.
        checkpoint_steps: optimizer step of every stored checkpoint; the last one is the trained model.
        metric_steps: optimizer step of every entry of the metric curves.
        paper: the paper behind the family.
        parameters: the parameter manifest.
        buffers: the buffer manifest.
        versions: package versions at creation.
        created: ISO time of creation.
        parent: the population or model these models come from, if any.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    family: str
    family_config: dict[str, Any]
    task: str
    training: dict[str, Any] = {}
    checkpoint_steps: tuple[int, ...]
    metric_steps: tuple[int, ...] = ()
    paper: str = ""
    parameters: tuple[TensorInfo, ...]
    buffers: tuple[TensorInfo, ...] = ()
    versions: dict[str, str] = {}
    created: str = ""
    parent: str | None = None

    @property
    def tensors(self) -> dict[str, tuple[str, TensorInfo]]:
        """Every stored tensor by the path of its array, with its kind."""
        groups = (("parameters", "params", self.parameters), ("buffers", "buffers", self.buffers))
        return {f"{folder}/{info.name}": (kind, info) for kind, folder, infos in groups for info in infos}


def manifest(module: nn.Module) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """The parameter and buffer manifests of a module; a tied parameter is listed once."""

    def describe(name: str, tensor: Tensor) -> TensorInfo:
        return TensorInfo(name=name, shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))

    kept = {name: tensor for name, tensor in module.named_buffers() if name in module.state_dict()}
    parameters = tuple(describe(name, tensor) for name, tensor in module.named_parameters())
    return parameters, tuple(describe(name, tensor) for name, tensor in kept.items())


def check_encoding(what: str, attributes: Mapping[str, Any], expected: Mapping[str, str]) -> None:
    """Raise `UserError`, naming both, when a group's encoding is not the expected one."""
    found = [str(attributes.get(key, "none")) for key in expected]
    if found != list(expected.values()):
        raise UserError(
            f"{what} has the encoding {' '.join(found)}, this version of metazoo reads {' '.join(expected.values())}; "
            "install the version that wrote it.")  # fmt: skip


def check_name(name: str, kind: str = "population") -> str:
    """The name itself if a population (or a tag) can have it; raises `UserError` otherwise."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise UserError(
            f"{kind} name {name!r} is not usable; use letters, digits, '.', '_' and '-', at most 100 of them, "
            "beginning with a letter or digit.", 2)  # fmt: skip
    return name


@dataclass
class ModelBatch:
    """Models that are committed together.

    Args:
        parameters: `[model, checkpoint, *shape]` by name.
        buffers: `[model, checkpoint, *shape]` by name.
        metrics: `[model, step]` by name.
        columns: the model table, one entry a model each; `id` is required.
    """

    parameters: Mapping[str, Any]
    buffers: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns["id"])

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Every array by its path in the population's group."""
        found: dict[str, np.ndarray[Any, Any]] = {}
        parts = {"params": self.parameters, "buffers": self.buffers, "metrics": self.metrics, "columns": self.columns}
        for folder, part in parts.items():
            for name, values in part.items():
                if isinstance(values, Tensor) and values.dtype not in STORABLE:
                    raise UserError(
                        f"{name!r} has dtype {values.dtype}, which a zoo cannot hold; convert it to float32."
                    )
                array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
                found[f"{folder}/{name}"] = array
        lengths = {path: len(array) for path, array in found.items() if len(array) != len(self)}
        if lengths:
            raise ValueError(f"a batch of {len(self)} models has arrays of other lengths: {lengths}")
        return found


@dataclass(frozen=True)
class Version:
    """One commit of a zoo: its snapshot id, time and message."""

    id: str
    time: datetime
    message: str


@dataclass(frozen=True)
class Problem:
    """Something an integrity check found: where, which models, and what is wrong."""

    population: str
    array: str
    models: tuple[int, ...]
    message: str
