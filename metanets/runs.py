"""A run: one metanet trained on populations of a zoo, as a folder that the commands and the app read.

    run.json           what was trained on what, and the metrics of every split
    weights.safetensors  the metanet's parameters and normalisation statistics, of the best epoch
    metrics.csv        losses and validation metrics per epoch
    predictions.csv    one row a model: population, id, split, target, prediction (and one column a class)
    embeddings.npy     [model, width], in the row order of predictions.csv
    checkpoints/       Lightning's own, to go on after an interruption

`run.json` is written first without `finished`; a folder whose run is not finished is not listed.
"""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from modelzoo.errors import UserError

Kind = Literal["classification", "regression"]
RECORD, WEIGHTS, METRICS, PREDICTIONS, EMBEDDINGS = (
    "run.json", "weights.safetensors", "metrics.csv", "predictions.csv", "embeddings.npy",
)  # fmt: skip
KEYS = ("population", "id", "split", "target", "prediction")


class RunRecord(BaseModel):
    """What `run.json` holds.

    Args:
        metanet: name of the metanet.
        config: its config.
        zoo: path of the zoo, as it was given.
        populations: names of the populations, in the order of the rows.
        snapshot: the zoo's snapshot that was read.
        target: column of the model table that is predicted.
        kind: of the target.
        classes: the value of every class, for classification.
        training: epochs, learning rate, batch size, …
        seed: of initialisation and batches.
        counts: models of every split.
        diverged: models that were left out because their training diverged.
        parameters: trainable scalars of the metanet.
        taken_over: tensors that came from where the training started from (`start_from` in `training`); None for a
            metanet of random weights.
        metrics: `{split: {metric: value}}`.
        versions: package versions.
        created, finished: ISO times; `finished` is None while it trains.
        seconds: wall time of the training.
    """

    model_config = ConfigDict(frozen=True)

    metanet: str
    config: dict[str, Any]
    zoo: str
    populations: tuple[str, ...]
    snapshot: str
    target: str
    kind: Kind
    classes: tuple[int | str, ...] = ()
    training: dict[str, Any]
    seed: int
    counts: dict[str, int] = {}
    diverged: int = 0
    parameters: int = 0
    taken_over: int | None = None
    metrics: dict[str, dict[str, float]] = {}
    versions: dict[str, str] = {}
    created: str
    finished: str | None = None
    seconds: float = 0.0


class Run:
    """A run folder.

    Args:
        path: the folder.
        record: its `run.json`.
    """

    def __init__(self, path: Path, record: RunRecord) -> None:
        self.path = path
        self.record = record

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a model: population, id, split, target, prediction and, for classes, `probability <class>`."""
        return pd.read_csv(self.path / PREDICTIONS)

    @cached_property
    def embeddings(self) -> NDArray[np.floating]:
        """`[model, width]`, in the row order of `table`."""
        return np.load(self.path / EMBEDDINGS, allow_pickle=False)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row an epoch: epoch, train_loss, validation_loss and the validation metric."""
        return pd.read_csv(self.path / METRICS)

    def write(self) -> None:
        """Write `run.json` in one step."""
        self.path.mkdir(parents=True, exist_ok=True)
        part = self.path / f"{RECORD}.part"
        part.write_text(json.dumps(self.record.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
        os.replace(part, self.path / RECORD)

    def finish(
        self,
        table: pd.DataFrame,
        embeddings: NDArray[np.floating],
        metrics: dict[str, dict[str, float]],
        seconds: float,
    ) -> "Run":
        """Write predictions and embeddings, then mark the run as finished.

        Args:
            table: the columns `KEYS`, then one per class.
            embeddings: `[model, width]`.
            metrics: `{split: {metric: value}}`.
            seconds: wall time of the training.
        """
        if tuple(table.columns[: len(KEYS)]) != KEYS or len(table) != len(embeddings):
            raise ValueError(f"a run's table begins with the columns {KEYS} and has one row per embedding")
        table.to_csv(self.path / PREDICTIONS, index=False)
        np.save(self.path / EMBEDDINGS, embeddings)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        counts = {str(split): int(count) for split, count in table["split"].value_counts().items()}
        update = {"metrics": metrics, "finished": now, "seconds": seconds, "counts": counts}
        done = Run(self.path, self.record.model_copy(update=update))
        done.write()
        return done


def read_record(path: str | Path) -> RunRecord | None:
    """The record of a folder, finished or not; None when there is none; raises `UserError` when it cannot be read."""
    file = Path(path) / RECORD
    if not file.is_file():
        return None
    try:
        return RunRecord.model_validate_json(file.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError):
        raise UserError(f"{str(file)!r} is not the record of a run; train again into another folder.") from None


def load(path: str | Path) -> Run:
    """The finished run in a folder; raises `UserError` when there is none."""
    record = read_record(path)
    if record is None:
        raise UserError(f"{str(path)!r} is not a run (no {RECORD} in it); make one with: metazoo train ZOO POPULATION.")
    if record.finished is None:
        raise UserError(f"the run {str(path)!r} is not finished; repeat its metazoo train command to go on.")
    run = Run(Path(path), record)
    missing = [name for name in (WEIGHTS, PREDICTIONS, EMBEDDINGS) if not (run.path / name).is_file()]
    if missing:
        raise UserError(f"the run {str(path)!r} lacks {', '.join(missing)}; train again into another folder.")
    return run


def find_curves(places: Sequence[str | Path], depth: int = 4) -> dict[str, pd.DataFrame]:
    """Learning curves of runs, finished or not, and of runs in folders, such as a leaderboard.

    Args:
        places: folders.
        depth: how many levels of folders to descend.

    Returns:
        One row an epoch, by the part of the run's path in which the runs differ.

    Raises:
        UserError: a folder is not there or holds no curves.
    """
    found: dict[Path, pd.DataFrame] = {}
    for place in map(Path, places):
        if not place.is_dir():
            raise UserError(f"there is no folder {str(place)!r}; name a run of metazoo train, or a folder of runs.")
        below = _holding(place, METRICS, depth)
        if not below:
            raise UserError(
                f"{str(place)!r} holds no learning curves (no {METRICS} in it); make a run with: metazoo train ZOO POPULATION."
            )
        found |= {path.resolve(): _curves(path / METRICS) for path in below}
    root = Path(os.path.commonpath(found)) if len(found) > 1 else next(iter(found)).parent
    return {path.relative_to(root).as_posix(): curves for path, curves in found.items()}


def _curves(file: Path) -> pd.DataFrame:
    try:
        curves = pd.read_csv(file)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError):
        curves = pd.DataFrame()
    if curves.empty or not {"epoch", "validation_loss"} <= {*curves.columns}:
        raise UserError(f"{str(file)!r} holds no learning curves; repeat its metazoo train command.")
    return curves


def _holding(folder: Path, file: str, depth: int) -> list[Path]:
    """The nearest folders that hold a file, this one or those in it."""
    if (folder / file).is_file():
        return [folder]
    deeper = sorted(entry for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".") if depth else []
    return [found for entry in deeper for found in _holding(entry, file, depth - 1)]


def list_runs(folder: str | Path, depth: int = 2) -> list[Run]:
    """Every finished, complete run in a folder and the folders in it, newest first.

    Args:
        folder: where to look; it may be a run itself.
        depth: how many levels of folders to descend.
    """
    found = []
    for place in _holding(Path(folder), RECORD, depth) if Path(folder).is_dir() else ():
        try:
            found.append(load(place))
        except UserError:
            continue  # unfinished or damaged: `load` says so to whoever asks for it by name
    return sorted(found, key=lambda run: run.record.finished or "", reverse=True)
