"""Reading 10,000 SIRENs 2-32-32-1: the zoo against one `.pt` file per model.

python benchmarks/store.py [--json] [--small]
"""

import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from harness import Case, equal, run, small
from torch import Tensor

from modelzoo.family import family
from modelzoo.store import ModelBatch, Population, PopulationInfo, Zoo, manifest

BATCH, BATCHES = 64, 20


def weights(models: int) -> tuple[PopulationInfo, dict[str, Tensor]]:
    """Random weights of the right shapes, `{name: [model, *shape]}`."""
    siren = family("siren")
    config = siren.config(in_features=2, hidden=(32, 32), out_features=1)
    parameters, _ = manifest(siren.build(config, seed=0))
    info = PopulationInfo(
        name="sirens", family="siren", family_config=config.model_dump(mode="json"), task="digits_inr",
        checkpoint_steps=(0,), parameters=parameters,
    )  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    return info, {tensor.name: torch.randn(models, *tensor.shape, generator=draw) for tensor in parameters}


def write_zoo(path: Path, info: PopulationInfo, tensors: dict[str, Tensor], models: int) -> None:
    population = Zoo.create(path).create_population(info)
    for start in range(0, models, 1000):
        ids = np.arange(start, min(start + 1000, models))
        part = {name: values[ids].unsqueeze(1) for name, values in tensors.items()}
        population.append(ModelBatch(part, columns={"id": ids, "status": np.full(len(ids), "ok", dtype=object)}))


def write_files(path: Path, tensors: dict[str, Tensor], models: int) -> None:
    path.mkdir()
    for model in range(models):
        torch.save({name: values[model].clone() for name, values in tensors.items()}, path / f"{model}.pt")


def load_files(path: Path, models: Iterable[int]) -> dict[str, Tensor]:
    loaded = [torch.load(path / f"{model}.pt", weights_only=True) for model in models]
    return {name: torch.stack([model[name] for model in loaded]) for name in loaded[0]}


def cases(folder: Path, models: int) -> list[Case]:
    """Both layouts written, and the two ways to read them."""
    info, tensors = weights(models)
    write_zoo(folder / "zoo", info, tensors, models)
    write_files(folder / "files", tensors, models)
    draw = np.random.default_rng(0)
    batches = [draw.choice(models, BATCH) for _ in range(BATCHES)]
    opened = Population(Zoo.open(folder / "zoo"), "sirens")
    ours_name, baseline_name, unit = "zoo", "one .pt a model", "models/s"
    return [
        Case(
            f"scan {models:,} SIRENs", lambda: Zoo.open(folder / "zoo")["sirens"].stacked(),
            lambda: load_files(folder / "files", range(models)), equal, models, None, unit, ours_name, baseline_name,
        ),
        Case(
            f"random batches of {BATCH} of {models:,} SIRENs", lambda: [opened.stacked(rows) for rows in batches],
            lambda: [load_files(folder / "files", rows) for rows in batches], equal, BATCH * BATCHES, None, unit, ours_name, baseline_name,
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    note = "The first random batch of a population costs one scan, which is not in the time; the files are in the system's cache."
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["METAZOO_CACHE"] = temporary
        sys.exit(run("store", cases(Path(temporary), 200 if small() else 10_000), repeats=5, notes=[note]))
