"""The Lightning module that trains a metanet, and predicts with it."""

from collections.abc import Iterable
from math import cos, pi
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from metanets.metanet import MetanetModule, Prediction
from metanets.runs import Kind
from metanets.scores import METRICS, scores
from metanets.training.config import TrainingConfig
from metanets.training.data import Batch, seed_of

WARMUP = 0.1  # share of the steps


class Predictor(nn.Module):
    """A metanet with the scale of its target: logits for classes, numbers in the target's unit for regression."""

    center: Tensor
    scale: Tensor

    def __init__(self, metanet: MetanetModule) -> None:
        super().__init__()
        self.metanet = metanet
        self.register_buffer("center", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, batch: Batch) -> Prediction:
        """One prediction a model of the batch, in its order; classes are not rescaled."""
        found = [self.metanet(models) for models, _ in batch]
        outputs = torch.cat([each.outputs for each in found])
        return Prediction(outputs * self.scale + self.center, torch.cat([each.embeddings for each in found]))


class WeightTraining(lightning.LightningModule):
    """AdamW with warm-up and cosine decay on cross-entropy, or on the squared error of the standardised target.

    Args:
        predictor: what is trained.
        config: how.
        kind: of the target.
        steps: optimizer steps in all.
    """

    def __init__(self, predictor: Predictor, config: TrainingConfig, kind: Kind, steps: int) -> None:
        super().__init__()
        self.predictor, self.config, self.kind, self.steps = predictor, config, kind, steps
        average = get_ema_multi_avg_fn(config.average)
        self.averaged = AveragedModel(predictor, multi_avg_fn=average, use_buffers=True) if config.average else None
        self.seen: list[tuple[Tensor, Tensor]] = []

    @property
    def best(self) -> Predictor:
        """What is validated and kept: the averaged weights, if there are any."""
        if self.averaged is None:
            return self.predictor
        averaged = self.averaged.module
        assert isinstance(averaged, Predictor)
        return averaged

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.kind == "classification":
            return F.cross_entropy(outputs, targets)
        return F.mse_loss(outputs[:, 0], targets) / self.predictor.scale.square()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(seed_of(self.config.seed, self.global_step))  # dropout as if never interrupted

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch  # zoos are in this machine's memory, and so is the metanet

    def training_step(self, batch: Batch, index: int) -> Tensor:
        targets = torch.cat([targets for _, targets in batch])
        loss = self.loss(self.predictor(batch).outputs, targets)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(targets))
        return loss

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        if self.averaged is not None and self.trainer.global_step:
            self.averaged.update_parameters(self.predictor)

    def validation_step(self, batch: Batch, index: int) -> None:
        self.seen.append((self.best(batch).outputs, torch.cat([targets for _, targets in batch])))

    def on_validation_epoch_end(self) -> None:
        outputs, targets = (torch.cat(parts) for parts in zip(*self.seen, strict=True))
        self.seen.clear()
        if not outputs.isfinite().all():
            raise FloatingPointError(f"training diverged in epoch {self.current_epoch + 1}")
        values = scores(targets.numpy(), answers(outputs, self.kind).numpy(), self.kind)
        self.log("validation_loss", self.loss(outputs, targets))
        self.log_dict({f"validation_{name}": values[name] for name in METRICS[self.kind]})

    def configure_optimizers(self) -> Any:
        weights = [p for p in self.predictor.parameters() if p.requires_grad]
        decayed = [p for name, p in self.predictor.named_parameters() if p.ndim > 1 and name.endswith("weight")]
        chosen = {id(p) for p in decayed}
        optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": self.config.weight_decay},
                {"params": [p for p in weights if id(p) not in chosen], "weight_decay": 0.0},
            ],
            lr=self.config.learning_rate,
        )
        warmup = max(1, round(WARMUP * self.steps))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 + 0.5 * cos(pi * min(1.0, (step - warmup) / max(1, self.steps - warmup)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def answers(outputs: Tensor, kind: Kind) -> Tensor:
    """The most probable class, or the number, `[model]`."""
    return outputs.argmax(1) if kind == "classification" else outputs[:, 0]


@torch.no_grad()
def predict(predictor: Predictor, batches: Iterable[Batch]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Outputs `[model, outputs]` and embeddings `[model, width]` over batches, in their order."""
    predictor.eval()
    outputs, embeddings = zip(*(predictor(batch) for batch in batches), strict=True)
    return torch.cat(outputs).numpy(), torch.cat(embeddings).numpy()
