"""Leaderboards: every contender on every target of some populations, over seeds, in one table.

A folder holds a leaderboard: `leaderboard.json` says what all its rows share (zoo, snapshot, populations, training), and
`<target>/<contender>/seed-<n>/` holds a run (see `metanets.runs`) and its `score.json`. What is there is not repeated, so
a leaderboard that was interrupted goes on, and one that is finished grows by targets, contenders and seeds.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from metanets.baseline import Baseline
from metanets.contender import Contender, defaults
from metanets.metanet import Metanet
from metanets.runs import PREDICTIONS, Kind
from metanets.scores import METRICS, split_scores
from metanets.training.config import TrainingConfig
from metanets.training.cost import step_cost
from metanets.training.data import WeightData
from metanets.training.run import predictor_of, train
from metanets.training.start import Start
from modelzoo.errors import UserError
from modelzoo.store import Zoo

RECORD, SCORE = "leaderboard.json", "score.json"


class Shared(BaseModel):
    """What all rows of a leaderboard share, `leaderboard.json`.

    Args:
        zoo: path of the zoo.
        snapshot: that is read.
        populations: names.
        training: settings that the user named; others are the metanet's own.
        tiny: whether metanets have their tiny configs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    zoo: str
    snapshot: str
    populations: tuple[str, ...]
    training: dict[str, Any] = {}
    tiny: bool = False


class Score(BaseModel):
    """One contender on one target with one seed, `score.json`.

    Args:
        metrics: `{split: {metric: value}}`.
        parameters: trainable scalars; None for baselines that are not trained step by step.
        milliseconds, megabytes: of one training step, see `metanets.training.cost`.
        seconds: of the whole training.
        kind: of the target.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    metrics: dict[str, dict[str, float | None]]
    parameters: int | None = None
    milliseconds: float | None = None
    megabytes: float | None = None
    seconds: float


@dataclass(frozen=True)
class Leaderboard:
    """A finished leaderboard.

    Args:
        rows: one a target and contender, best first within a target.
        left_out: contenders that cannot read these models, with the reason.
    """

    rows: list[dict[str, Any]]
    left_out: dict[str, str]

    def to_frame(self) -> pd.DataFrame:
        """The rows as a table of numbers."""
        return pd.DataFrame(self.rows)

    def shown(self) -> list[dict[str, Any]]:
        """The rows for people: metrics of the test split as mean ± standard deviation."""
        metrics = [
            name for kind in METRICS for name in METRICS[kind] if any(f"{name} mean" in row for row in self.rows)
        ]
        found = []
        for row in self.rows:
            scores = {name: plus_minus(row.get(f"{name} mean"), row.get(f"{name} sd")) for name in metrics}
            keys = ("seeds", "parameters", "step CPU ms", "peak MB", "seconds")
            found.append(
                {"target": row["target"], "contender": row["contender"], **scores, **{k: row[k] for k in keys}}
            )
        return found


def plus_minus(mean: float | None, deviation: float | None, digits: int = 3) -> str | None:
    """A mean with its standard deviation, for people."""
    if mean is None:
        return None
    return f"{mean:.{digits}f}" if deviation is None else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def run(
    zoo: str | Path, populations: Sequence[str], out: str | Path, targets: Sequence[str],
    contenders: Sequence[str] = (), seeds: int = 3, training: Mapping[str, Any] | None = None, tiny: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Leaderboard:  # fmt: skip
    """Train and score what is not stored yet, and read off the table.

    Args:
        zoo: path of the zoo.
        populations: names of populations, learned from together; their splits are those of the zoo.
        out: folder of the leaderboard.
        targets: columns of the model table.
        contenders: texts of contenders; none takes every metanet and baseline that can read these models.
        seeds: how many, from 0 on.
        training: settings of every training that override the metanets' own.
        tiny: metanets with their tiny configs, for tests.
        progress: told what is next.

    Raises:
        UserError: something that was named does not exist or cannot read these models, the folder holds another
            leaderboard, or a training was interrupted.
    """
    if seeds < 1:
        raise UserError(f"a leaderboard needs at least one seed, got --seeds {seeds}.", 2)
    for names, option in ((targets, "--target"), (contenders, "--metanet")):
        if len(set(names)) != len(names):
            raise UserError(f"{option} names something twice; name each once.", 2)
    given = {key: value for key, value in (training or {}).items() if value is not None}
    settings = TrainingConfig.read(**given)
    chosen = [Contender.read(text) for text in contenders] or defaults()
    for contender in chosen:
        TrainingConfig.read(augment=contender.augment)
        if contender.start_from is not None:
            Start.read(contender.start_from, contender.subject.name)
    store, path = Zoo.open(zoo), Path(out)
    shared = _shared(path, store, str(zoo), populations, given, tiny)
    missing = {
        t
        for t, seed, contender in _cells(targets, seeds, chosen)
        if not (_place(path, t, contender, seed) / SCORE).is_file()
    }
    mode, models = settings.data, settings.models
    data = {
        t: WeightData(Zoo.open(zoo, at=shared.snapshot), populations, t, mode=mode, models=models)
        for t in targets
        if t in missing
    }
    write_record(path / RECORD, shared)
    scores: dict[tuple[str, str], list[Score]] = {}
    left_out: dict[str, str] = {}
    for target, seed, contender in _cells(targets, seeds, chosen):
        if contender.text in left_out:
            continue
        folder = _place(path, target, contender, seed)
        try:
            score = _stored(folder)
            if score is None:
                progress(f"{target}: {contender.text}, seed {seed}")
                score = _score(folder, contender, data[target], shared, seed)
        except UserError as error:
            if contenders or error.exit_code == 130:
                raise
            left_out[contender.text] = str(error)
            continue
        scores.setdefault((target, contender.text), []).append(score)
    subjects = {contender.text: contender for contender in chosen}
    rows = [_row(target, subjects[text], found) for (target, text), found in scores.items() if text not in left_out]
    return Leaderboard(sorted(rows, key=lambda row: (targets.index(row["target"]), -_main(row))), left_out)


def _cells(targets: Sequence[str], seeds: int, chosen: Sequence[Contender]) -> Iterator[tuple[str, int, Contender]]:
    """One seed of everything first, so that an interrupted leaderboard is whole."""
    return ((target, seed, contender) for seed in range(seeds) for target in targets for contender in chosen)


def _shared(
    path: Path, store: Zoo, zoo: str, populations: Sequence[str], training: Mapping[str, Any], tiny: bool
) -> Shared:
    """What the folder's leaderboard shares, if it is the one that is asked for."""
    snapshot = store.snapshot_id
    file = path / RECORD
    if path.exists() and not path.is_dir():
        raise UserError(f"{str(path)!r} is a file; name a folder for the leaderboard with --out.")
    if not file.is_file():
        if path.is_dir() and any(path.iterdir()):
            raise UserError(f"{str(path)!r} is not empty and not a leaderboard; name another folder with --out.")
        return Shared(zoo=zoo, snapshot=snapshot, populations=tuple(populations), training=dict(training), tiny=tiny)
    try:
        before = Shared.model_validate_json(file.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError):
        raise UserError(f"{str(file)!r} is not the record of a leaderboard; name another folder with --out.") from None
    want = before.model_copy(
        update={"zoo": zoo, "populations": tuple(populations), "training": dict(training), "tiny": tiny}
    )
    for key, value in want.model_dump().items():
        if (have := before.model_dump()[key]) != value:
            raise UserError(
                f"{str(path)!r} holds a leaderboard with {key} = {have!r}, now it is {value!r}; name another --out."
            )
    return before


def write_record(file: Path, entry: BaseModel) -> None:
    """Write a record in one step."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(entry.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
        os.replace(part, file)
    except OSError as error:
        raise UserError(f"cannot write {str(file)!r}: {error.strerror}; choose another --out.") from None


def _place(path: Path, target: str, contender: Contender, seed: int) -> Path:
    return path / target / contender.folder / f"seed-{seed}"


def _stored(folder: Path) -> Score | None:
    file = folder / SCORE
    return Score.model_validate_json(file.read_text(encoding="utf-8")) if file.is_file() else None


def _score(folder: Path, contender: Contender, data: WeightData, shared: Shared, seed: int) -> Score:
    """Train or fit, and store the score."""
    if contender.subject.one_architecture and len(data.blocks) > 1:
        raise UserError(f"{contender.text!r} reads one architecture; name one population, or leave it out.")
    if isinstance(contender.subject, Baseline):
        score = _fitted(folder, contender.subject, data, seed)
    else:
        score = _trained(folder, contender, contender.subject, data, shared, seed)
    write_record(folder / SCORE, score)
    return score


def _fitted(folder: Path, baseline: Baseline, data: WeightData, seed: int) -> Score:
    started = time.perf_counter()
    predicted = baseline.fit(data, seed)
    seconds = time.perf_counter() - started
    table = data.table[["population", "id", "split"]].assign(target=data.table[data.target], prediction=predicted)
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / PREDICTIONS, index=False)
    return Score(kind=data.kind, metrics=_finite(split_scores(table, data.kind)), seconds=seconds)


def _trained(
    folder: Path, contender: Contender, metanet: Metanet, data: WeightData, shared: Shared, seed: int
) -> Score:
    fields = {**(metanet.tiny if shared.tiny else {}), **contender.fields}
    config = TrainingConfig.read(
        **{**metanet.recipe, **shared.training}, metanet=metanet.name, fields=fields, target=data.target,
        augment=dict(contender.augment), start_from=contender.start_from, seed=seed,
    )  # fmt: skip
    done = train(shared.zoo, shared.populations, folder, config, progress=False, snapshot=shared.snapshot)
    record = done.record
    cost = step_cost(predictor_of(done), data.collate(data.rows("train")[: config.batch_size]), config.precision)
    return Score(
        kind=record.kind, metrics=_finite(record.metrics), parameters=record.parameters, seconds=record.seconds,
        milliseconds=cost.milliseconds, megabytes=cost.megabytes,
    )  # fmt: skip


def _finite(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """Metrics as JSON can hold them."""
    return {s: {k: v if np.isfinite(v) else None for k, v in values.items()} for s, values in metrics.items()}


def _row(target: str, contender: Contender, scores: Sequence[Score]) -> dict[str, Any]:
    """Means and standard deviations over the seeds, on the test split."""
    row: dict[str, Any] = {"target": target, "contender": contender.text}
    for name in METRICS[scores[0].kind]:
        values = [value for score in scores if (value := score.metrics["test"][name]) is not None]
        row[f"{name} mean"] = float(np.mean(values)) if values else None
        row[f"{name} sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    rest = {"parameters": "parameters", "step CPU ms": "milliseconds", "peak MB": "megabytes", "seconds": "seconds"}
    for name, field in rest.items():
        known = [value for score in scores if (value := getattr(score, field)) is not None]
        row[name] = None if not known else known[0] if name == "parameters" else float(np.median(known))
    return {**row, "seeds": len(scores), "equivariance": contender.subject.equivariance}


def _main(row: Mapping[str, Any]) -> float:
    """What rows are sorted by: accuracy, or τ."""
    value = row.get("accuracy mean", row.get("tau mean"))
    return -np.inf if value is None else float(value)
