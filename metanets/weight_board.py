"""Weight tasks trained under Lightning, kept in folders, and read off as one table.

`<folder>/<population>/<task>/<contender>/seed-<n>/` holds what `metanets.training.run.fit` writes (curves, checkpoints,
TensorBoard's files), `weights.safetensors` and `task.json`: what was trained, and the test metrics of the network before and
after. Baselines are a contender of the name `baselines`. What is finished is not trained again, what was interrupted goes on.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file

from metanets.contender import Contender, folder_name
from metanets.leaderboard import plus_minus, write_record
from metanets.metanet import Metanet
from metanets.runs import WEIGHTS
from metanets.training.config import TrainingConfig
from metanets.training.data import PopulationBlock
from metanets.training.run import PACKAGES
from metanets.weight_task import Experiment, Metrics, WeightTask, read_block, weight_task
from metanets.weight_training import train_experiment
from modelzoo.errors import UserError
from modelzoo.store import Zoo

RECORD, BASELINES, UNTRAINED = "task.json", "baselines", "untrained"


class TaskRecord(BaseModel):
    """What `task.json` holds.

    Args:
        task: the weight task with its fields, as `WeightTask.text`.
        contender: what was trained, as it was written, or `baselines`.
        zoo: path of the zoo, as it was given.
        population: its name.
        snapshot: the zoo's snapshot that was read.
        training: the training's config; None for baselines.
        seed: of initialisation, batches and everything random.
        parameters: trainable scalars.
        metrics: `{method: {metric: value}}`, on the test split.
        versions: package versions.
        created, finished: ISO times; `finished` is None while it trains.
        seconds: wall time.
    """

    model_config = ConfigDict(frozen=True)

    task: str
    contender: str
    zoo: str
    population: str
    snapshot: str
    training: dict[str, Any] | None = None
    seed: int
    parameters: int | None = None
    metrics: dict[str, dict[str, float | None]] = {}
    versions: dict[str, str] = {}
    created: str
    finished: str | None = None
    seconds: float = 0.0


def read(folder: Path) -> TaskRecord | None:
    """The record in a folder; None when there is none; raises `UserError` when it cannot be read."""
    if not (folder / RECORD).is_file():
        return None
    try:
        return TaskRecord.model_validate_json((folder / RECORD).read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError):
        raise UserError(f"{str(folder / RECORD)!r} is not the record of a weight task; name another --out.") from None


class Bench:
    """One task on one population, with the folder of its results.

    Args:
        task: `NAME[,field=value…]`.
        zoo: path of the zoo.
        population: its name.
        out: folder of all tasks' results.
        training: settings that the user named, None for those left open.
    """

    def __init__(self, task: str, zoo: str | Path, population: str, out: str | Path, training: Mapping[str, Any]) -> None:  # fmt: skip
        self.task: WeightTask = weight_task(task)
        self.zoo, self.population = str(zoo), population
        self.folder = Path(out) / population / folder_name(self.task.text)
        self.training = {key: value for key, value in training.items() if value is not None}
        stored = [record for place in sorted(self.folder.glob("*/seed-*")) if (record := read(place))]
        self.snapshot = stored[0].snapshot if stored else Zoo.open(zoo).snapshot_id

    @cached_property
    def block(self) -> PopulationBlock:
        """The models."""
        return read_block(Zoo.open(self.zoo, at=self.snapshot), self.population)

    def config(self, contender: Contender, seed: int) -> TrainingConfig:
        """How a contender is trained."""
        subject = contender.subject
        if not isinstance(subject, Metanet) or contender.augment or contender.start_from:
            raise UserError(f"{contender.text!r} is not a metanet alone; weight tasks have baselines and chances of their own.", 2)  # fmt: skip
        settings = {**self.task.recipe, **subject.recipe, **self.training}
        return TrainingConfig.read(**settings, metanet=subject.name, fields=dict(contender.fields), seed=seed)

    def place(self, contender: str, seed: int) -> Path:
        """The folder of a contender and a seed."""
        return self.folder / contender / f"seed-{seed}"

    def baselines(self, seed: int) -> TaskRecord:
        """The stored metrics of the baselines, measured where they are not."""
        folder = self.place(BASELINES, seed)
        config = TrainingConfig.read(**{**self.task.recipe, **self.training}, metanet=self.task.metanet, seed=seed)
        before = self._before(folder, BASELINES, None, seed)
        if before.finished:
            return before
        started = time.perf_counter()
        torch.manual_seed(seed)
        return _finish(folder, before, self.task.experiment(self.block, config).baselines(), started)

    def trained(self, contender: Contender, seed: int, progress: bool = False) -> TaskRecord:
        """The stored metrics of a contender, trained where it is not.

        Raises:
            UserError: it cannot do the task, the folder holds another training, training diverged or was interrupted.
        """
        folder, config = self.place(contender.folder, seed), self.config(contender, seed)
        before = self._before(folder, contender.text, config.model_dump(mode="json"), seed)
        if before.finished:
            return before
        experiment = self.task.experiment(self.block, config)
        parameters = sum(p.numel() for p in experiment.network.parameters() if p.requires_grad)
        before = before.model_copy(update={"parameters": parameters})
        write_record(folder / RECORD, before)
        started = time.perf_counter()
        metrics = {}
        for method in (f"{contender.text}, {UNTRAINED}", contender.text):
            if method == contender.text:
                train_experiment(experiment, config, folder, progress)
            experiment.network.eval()
            torch.manual_seed(seed)
            metrics[method] = experiment.measure()
        save_file({name: value.contiguous() for name, value in experiment.network.state_dict().items()}, folder / WEIGHTS)  # fmt: skip
        return _finish(folder, before, metrics, started)

    def restored(self, contender: Contender, seed: int) -> Experiment:
        """A trained experiment, as it was stored; trained where it is not."""
        self.trained(contender, seed)
        experiment = self.task.experiment(self.block, self.config(contender, seed))
        experiment.network.load_state_dict(load_file(self.place(contender.folder, seed) / WEIGHTS))
        experiment.network.eval()
        return experiment

    def _before(self, folder: Path, contender: str, training: dict[str, Any] | None, seed: int) -> TaskRecord:
        """What is in the folder, if it is what is asked for, or else a new record."""
        wanted = TaskRecord(
            task=self.task.text, contender=contender, zoo=self.zoo, population=self.population, snapshot=self.snapshot,
            training=training, seed=seed, versions={package: version(package) for package in PACKAGES},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        before = read(folder)
        if before is None:
            return wanted
        have, want = ({"zoo": r.zoo, **(r.training or {})} for r in (before, wanted))
        for key in want:
            if have.get(key) != want[key]:
                raise UserError(f"{str(folder)!r} holds a training with {key} = {have.get(key)!r}, now it is {want[key]!r}; name another --out.")  # fmt: skip
        return before


def _finish(folder: Path, record: TaskRecord, metrics: Mapping[str, Metrics], started: float) -> TaskRecord:
    finite = {m: {k: v if np.isfinite(v) else None for k, v in values.items()} for m, values in metrics.items()}
    update = {"metrics": finite, "finished": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": time.perf_counter() - started}  # fmt: skip
    done = record.model_copy(update=update)
    write_record(folder / RECORD, done)
    return done


def run(
    bench: Bench, contenders: Sequence[str] = (), seeds: int = 1, progress: Callable[[str], None] = lambda text: None
) -> list[dict[str, Any]]:
    """Train and measure what is not stored yet; the rows of `rows` for this task and population.

    Args:
        bench: the task on its population.
        contenders: texts of metanets, none for the task's default.
        seeds: how many, from 0 on.
        progress: told what is next.

    Raises:
        UserError: something cannot be done; what was finished before is kept.
    """
    if seeds < 1:
        raise UserError(f"a weight task needs at least one seed, got --seeds {seeds}.", 2)
    chosen = [Contender.read(text) for text in contenders or (bench.task.metanet,)]
    for contender in chosen:
        bench.config(contender, 0)  # refused before anything is trained
    for seed in range(seeds):
        progress(f"{bench.task.text}: baselines, seed {seed}")
        bench.baselines(seed)
        for contender in chosen:
            progress(f"{bench.task.text}: {contender.text}, seed {seed}")
            bench.trained(contender, seed, progress=True)
    return rows(bench.folder)


def records(folder: str | Path) -> Iterator[TaskRecord]:
    """Every finished record in a folder and the folders in it."""
    for file in sorted(Path(folder).rglob(RECORD)):
        record = read(file.parent)
        if record is not None and record.finished:
            yield record


def rows(folder: str | Path) -> list[dict[str, Any]]:
    """One row a task, population, method and metric: mean and standard deviation over seeds; the best method first."""
    found: dict[tuple[str, str, str, str], list[TaskRecord]] = {}
    for record in records(folder):
        for method, metrics in record.metrics.items():
            for metric in metrics:
                found.setdefault((record.task, record.population, method, metric), []).append(record)
    table = []
    for (task, population, method, metric), own in found.items():
        values = [value for record in own if (value := record.metrics[method][metric]) is not None]
        table.append({
            "task": task, "population": population, "method": method, "metric": metric,
            "mean": float(np.mean(values)) if values else None,
            "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None, "seeds": len(values),
            "trained": own[0].contender != BASELINES and not method.endswith(f", {UNTRAINED}"),
            "parameters": own[0].parameters, "seconds": float(np.median([record.seconds for record in own])),
        })  # fmt: skip
    return table


def shown(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one task for people: one a method, one column a metric."""
    metrics = list(dict.fromkeys(row["metric"] for row in table))
    found: dict[str, dict[str, Any]] = {}
    for row in table:
        line = found.setdefault(row["method"], {"method": row["method"], **dict.fromkeys(metrics), "seeds": row["seeds"], "parameters": row["parameters"]})  # fmt: skip
        line[row["metric"]] = plus_minus(row["mean"], row["sd"], 4)
    return list(found.values())


def board(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Metanets × tasks: the main metric of every trained metanet, and of the best baseline, mean ± sd over seeds."""
    columns = list(dict.fromkeys((row["task"], row["population"]) for row in table))
    names = list(dict.fromkeys(row["method"] for row in table if row["trained"]))
    lines: dict[str, dict[str, Any]] = {name: {"metanet": name} for name in [*names, "best baseline"]}
    for name, population in columns:
        task = weight_task(name)
        title = f"{name} on {population}: {task.metric} {'↑' if task.higher_is_better else '↓'}"
        own = [r for r in table if (r["task"], r["population"], r["metric"]) == (name, population, task.metric)]
        trained = {row["method"]: row for row in own if row["trained"]}
        others = [r for r in own if not r["trained"] and r["mean"] is not None and not r["method"].endswith(UNTRAINED)]
        for method in names:
            row = trained.get(method)
            lines[method][title] = row and plus_minus(row["mean"], row["sd"], 4)
        best = sorted(others, key=lambda row: row["mean"], reverse=task.higher_is_better)[:1]
        lines["best baseline"][title] = (
            f"{plus_minus(best[0]['mean'], best[0]['sd'], 4)} ({best[0]['method']})" if best else None
        )
    return list(lines.values())
