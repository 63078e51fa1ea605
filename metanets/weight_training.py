"""Training an experiment of a weight task under Lightning, in the way metanets are trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from metanets.training.config import TrainingConfig
from metanets.training.data import seed_of
from metanets.training.module import optimization
from metanets.training.reading import Shuffle
from metanets.training.run import fit
from metanets.weight_task import Experiment
from modelzoo.errors import UserError


class TaskTraining(lightning.LightningModule):
    """The loss of an experiment, on training items with gradients and on validation items without."""

    def __init__(self, experiment: Experiment, config: TrainingConfig, steps: int) -> None:
        super().__init__()
        self.network, self.compute, self.config, self.steps = experiment.network, experiment.loss, config, steps

    def _loss(self, rows: Tensor, *seed: int) -> Tensor:
        torch.manual_seed(seed_of(self.config.seed, *seed))  # as if never interrupted
        loss = self.compute(rows)
        if not loss.isfinite():
            raise FloatingPointError(f"training diverged in epoch {self.current_epoch + 1}")
        return loss

    def training_step(self, rows: Tensor, index: int) -> Tensor:
        loss = self._loss(rows, self.global_step)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(rows))
        return loss

    def validation_step(self, rows: Tensor, index: int) -> None:
        self.log("validation_loss", self._loss(rows, 0, index), batch_size=len(rows))  # the same chance every epoch

    def configure_optimizers(self) -> Any:
        return optimization(self.network, self.config, self.steps)


class Items(lightning.LightningDataModule):
    """Batches of the items of an experiment; a last batch of one is left out of the training."""

    def __init__(self, items: Mapping[str, Tensor], config: TrainingConfig) -> None:
        super().__init__()
        self.items, self.config = items, config

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled anew every epoch."""
        rows: Any = self.items["train"]
        size = self.config.batch_size
        return DataLoader(rows, size, sampler=Shuffle(len(rows), self.config.seed), drop_last=len(rows) % size == 1)

    def val_dataloader(self) -> DataLoader[Any]:
        """In order."""
        rows: Any = self.items["validation"]
        return DataLoader(rows, self.config.batch_size)


def train_experiment(experiment: Experiment, config: TrainingConfig, folder: Path, progress: bool = False) -> nn.Module:
    """Train under Lightning in a folder, or go on there; in evaluation mode afterwards, with the best epoch's weights.

    Raises:
        UserError: training diverged, and the folder is gone, or was interrupted; or the config asks for more than tasks do.
    """
    if (config.data, config.precision) != ("memory", "32"):
        raise UserError(
            "weight tasks read models in memory and compute in precision 32; leave data and precision out.", 2
        )
    data = Items(experiment.items, config)
    module = TaskTraining(experiment, config, config.epochs * len(data.train_dataloader()))
    fit(module, data, folder, config, progress)
    return experiment.network.eval()
