"""Training a metanet on a zoo into a run folder, and going back to one."""

import logging
import shutil
import signal
import time
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor

from metanets import runs
from metanets.metanet import metanet
from metanets.runs import METRICS, WEIGHTS, Run, RunRecord
from metanets.scores import split_scores
from metanets.training.config import TrainingConfig
from metanets.training.data import WeightData
from metanets.training.module import Predictor, WeightTraining, answers, predict
from metanets.training.start import Start
from modelzoo.console import console
from modelzoo.errors import UserError
from modelzoo.store import Zoo

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)

CHECKPOINTS = "checkpoints"
PACKAGES = ("metazoo", "torch", "torch_geometric", "lightning")


def train(
    zoo: str | Path, populations: Sequence[str], out: str | Path, config: TrainingConfig, progress: bool = True,
    snapshot: str | None = None,
) -> Run:  # fmt: skip
    """Train a metanet, or go on with a training that was interrupted; a finished run is simply returned.

    Args:
        zoo: path of the zoo.
        populations: names of populations; their splits are those of the zoo.
        out: the run folder.
        config: what to train and how.
        progress: draw a progress bar when standard output is a terminal.
        snapshot: of the zoo, None for the newest.

    Raises:
        UserError: the request cannot be met, the folder holds another run, or training diverged or was interrupted.
    """
    chosen, store, path = metanet(config.metanet), Zoo.open(zoo, at=snapshot), Path(out)
    if path.exists() and not path.is_dir():
        raise UserError(f"{str(path)!r} is a file; name a folder for the run.")
    before = runs.read_record(path)
    if before is None and path.is_dir() and any(path.iterdir()):
        raise UserError(f"{str(path)!r} is not empty and not a run; name another folder for the run.")
    if before is not None:
        store = Zoo.open(zoo, at=before.snapshot)
        _check_same(path, before, zoo, populations, config)
        if before.finished:
            return runs.load(path)
    start = None if config.start_from is None else Start.read(config.start_from, chosen.name)
    data = WeightData(
        store, populations, config.target, config.kind, config.batch_size, config.augment, config.seed,
        mode=config.data, models=config.models,
    )  # fmt: skip
    batch = data.training_batch()
    training = [models for models, _ in batch]
    if chosen.one_architecture and len({models.topology for models in training}) > 1:
        raise UserError(f"metanet {chosen.name!r} reads one architecture; name one population, or train graph_metanet.")
    outputs = len(data.classes) or 1
    fields = {**config.fields, "outputs": outputs, **chosen.adapt(training, config.fields)}
    network = chosen.configure(fields)
    predictor = Predictor(chosen.build(network, config.seed), data.kind).to(config.dtype)
    predictor.prepare(batch, data.targets[data.rows("train")])
    taken_over = None if start is None else start.take(predictor.metanet)
    del batch, training  # up to a buffer of weights
    record = RunRecord(
        metanet=chosen.name, config=network.model_dump(mode="json"), zoo=str(zoo), populations=tuple(populations),
        snapshot=store.snapshot_id, target=config.target, kind=data.kind, classes=data.classes,
        training=config.model_dump(mode="json"), seed=config.seed, diverged=data.diverged,
        parameters=sum(p.numel() for p in predictor.parameters()), taken_over=taken_over,
        versions={package: version(package) for package in PACKAGES},
        created=before.created if before else datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    run = Run(path, record)
    try:
        run.write()
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {error.strerror}; choose another --out.") from None
    started = time.perf_counter()
    module = WeightTraining(predictor, config, data.kind, config.epochs * len(data.train_dataloader()))
    fit(module, data, path, config, progress)
    best = module.best
    tensors = {name: value.contiguous() for name, value in best.state_dict().items()}
    save_file(tensors, path / WEIGHTS)
    table, embeddings = predictions(best, data)
    return run.finish(table, embeddings, split_scores(table, data.kind), time.perf_counter() - started)


def _check_same(
    path: Path, before: RunRecord, zoo: str | Path, populations: Sequence[str], config: TrainingConfig
) -> None:
    trained = config_of(Run(path, before)).model_dump(mode="json")
    have = {"zoo": before.zoo, "populations": list(before.populations), **trained}
    want = {"zoo": str(zoo), "populations": list(populations), **config.model_dump(mode="json")}
    for key in want:
        if have[key] != want[key]:
            raise UserError(
                f"{str(path)!r} holds a run with {key} = {have[key]!r}, now it is {want[key]!r}; "
                "repeat the first command to resume, or choose another --out.") from None  # fmt: skip


def fit(
    module: lightning.LightningModule, data: lightning.LightningDataModule, path: Path, config: TrainingConfig,
    progress: bool,
) -> None:  # fmt: skip
    """Train under Lightning in a folder, or go on there; the module then has the state of its best epoch.

    Args:
        module: logs `validation_loss`, and raises `FloatingPointError` where it is no number.
        data: training and validation batches.
        path: the folder: checkpoints, curves, TensorBoard's files.
        config: epochs, gradient clip, patience, mixed precision and seed.
        progress: draw a progress bar when standard output is a terminal.

    Raises:
        UserError: training diverged, and the folder is gone, or was interrupted.
    """
    lightning.seed_everything(config.seed, verbose=False)
    folder = path / CHECKPOINTS
    keep = ModelCheckpoint(folder, "best", monitor="validation_loss", save_last=True, enable_version_counter=False)
    callbacks: list[Callback] = [keep, Curves(path / METRICS), Bar(path.name, progress and console.is_terminal)]
    if config.patience:
        callbacks.append(EarlyStopping("validation_loss", patience=config.patience))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")  # number of workers, short epochs: all meant
        trainer = lightning.Trainer(
            accelerator="cpu", max_epochs=config.epochs, callbacks=callbacks, gradient_clip_val=config.gradient_clip,
            precision="bf16-mixed" if config.precision == "bf16-mixed" else "32-true",  # double is that of the module
            logger=TensorBoardLogger(path, name="tensorboard", version=""), log_every_n_steps=10**9,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, inference_mode=False,
        )  # fmt: skip
        last = folder / "last.ckpt"
        handler = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(module, datamodule=data, ckpt_path=str(last) if last.exists() else None, weights_only=True)
        except FloatingPointError as error:  # going on would meet it again: nothing is kept
            shutil.rmtree(path)
            raise UserError(f"{error}; lower --learning-rate (it is {config.learning_rate:g}).") from None
        except SystemExit:  # Lightning's answer to Ctrl-C, which it then ignores for ever
            if not trainer.interrupted:
                raise
            signal.signal(signal.SIGINT, handler)
    if trainer.interrupted:
        raise UserError(
            f"stopped after {trainer.current_epoch} of {config.epochs} epochs; run the same command to go on.", 130
        )
    module.load_state_dict(torch.load(keep.best_model_path, weights_only=True)["state_dict"])


class Curves(Callback):
    """Writes one row an epoch to a CSV file; a resumed training replaces the rows from its epoch on."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = pd.DataFrame([{"epoch": trainer.current_epoch, **values}])
        if self.file.exists():
            before = pd.read_csv(self.file)
            row = pd.concat([before[before["epoch"] < trainer.current_epoch], row])
        row.to_csv(self.file, index=False)


class Bar(Callback):
    """A progress bar over epochs, with the losses and the time left."""

    def __init__(self, name: str, shown: bool) -> None:
        self.name = name
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(), console=console, disable=not shown,
        )  # fmt: skip

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.line = self.bar.add_task(self.name, total=trainer.max_epochs, state="")
        self.bar.start()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        state = ", ".join(f"{name} {float(value):.3f}" for name, value in trainer.callback_metrics.items())
        self.bar.update(self.line, completed=trainer.current_epoch + 1, state=state)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self.bar.stop()


def predictions(predictor: Predictor, data: WeightData) -> tuple[pd.DataFrame, NDArray[np.floating]]:
    """The table of a run, and the embeddings, for every model of the data."""
    rows = list(range(len(data.table)))
    batches = [rows[start : start + 256] for start in range(0, len(rows), 256)]
    # a batch lists its models population by population, as the table does
    outputs, embeddings = predict(predictor, (data.collate(batch) for batch in batches))
    chosen = answers(torch.from_numpy(outputs), data.kind).numpy()
    names: NDArray[Any] = np.array(data.classes)
    table = data.table[["population", "id", "split"]].copy()
    # double precision: the table becomes a file of text, and what is read back must be what was scored
    target = data.table[data.target].to_numpy()
    table["target"] = target if data.kind == "classification" else target.astype(np.float64)
    table["prediction"] = names[chosen] if data.kind == "classification" else chosen.astype(np.float64)
    if data.kind == "classification":
        probabilities = torch.from_numpy(outputs).softmax(1).numpy()
        for number, name in enumerate(data.classes):
            table[f"probability {name}"] = probabilities[:, number]
    return table, embeddings


def config_of(run: Run) -> TrainingConfig:
    """How a run was trained; settings that it did not know have their defaults."""
    known = {key: value for key, value in run.record.training.items() if key in TrainingConfig.model_fields}
    return TrainingConfig.read(**known)


def predictor_of(run: Run) -> Predictor:
    """The trained metanet of a run, in evaluation mode; raises `UserError` for a run of an earlier version of it."""
    chosen = metanet(run.record.metanet)
    predictor = Predictor(chosen.module(chosen.configure(run.record.config)), run.record.kind).to(config_of(run).dtype)
    state: dict[str, Tensor] = load_file(run.path / WEIGHTS)
    try:
        predictor.load_state_dict(state)
    except RuntimeError:
        raise UserError(f"{str(run.path)!r} holds another version of metanet {chosen.name!r} than this one; train it again.") from None  # fmt: skip
    return predictor.eval()
