"""The Lightning module that trains a metanet, and predicts with it."""

from collections.abc import Iterable
from math import cos, pi, sqrt
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from metanets.metanet import MetanetModule, Prediction, Wanted
from metanets.readout import Mixture
from metanets.runs import Kind
from metanets.scores import METRICS, scores
from metanets.training.config import TrainingConfig
from metanets.training.data import Batch, seed_of

WARMUP = 0.1  # share of the steps
KNOTS = 65  # quantiles of a target


class Ranks(nn.Module):
    """A target's place among the training targets, 0 … 1, and back: their distribution function, linear between quantiles.

    Accuracies crowd where models are good. Squared error hardly tells them apart there; on ranks it does.
    """

    knots: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("knots", torch.linspace(0, 1, KNOTS))

    def fit(self, targets: Tensor) -> None:
        """Read off the quantiles of the training targets."""
        self.knots.copy_(torch.quantile(targets.double(), torch.linspace(0, 1, KNOTS, dtype=torch.float64)))

    def forward(self, targets: Tensor) -> Tensor:
        """Ranks of targets; equal targets share the middle of their ranks."""
        targets = targets.clamp(self.knots[0], self.knots[-1]).contiguous()
        below = torch.searchsorted(self.knots, targets)  # knots < target
        upto = torch.searchsorted(self.knots, targets, right=True)
        low, high = self.knots[(below - 1).clamp_min(0)], self.knots[below]
        between = below - 1 + (targets - low) / (high - low).clamp_min(1e-30)
        return torch.where(upto > below, (below + upto - 1) / 2, between) / (KNOTS - 1)

    def invert(self, ranks: Tensor) -> Tensor:
        """Targets of ranks; nothing lies beyond the smallest and the largest training target."""
        place = ranks.clamp(0, 1) * (KNOTS - 1)
        below = place.detach().nan_to_num().long().clamp_max(KNOTS - 2)  # a training that diverges stays visible
        return self.knots[below] + (place - below) * (self.knots[below + 1] - self.knots[below])


class Predictor(nn.Module):
    """A metanet with the ranks of its target: logits for classes, numbers in the target's unit for regression."""

    def __init__(self, metanet: MetanetModule, kind: Kind) -> None:
        super().__init__()
        self.metanet, self.kind = metanet, kind
        self.ranks = Ranks()

    def prepare(self, training: Batch, targets: Tensor) -> None:
        """Read off what training begins at: ranks of all the training targets, the rest from training models with theirs."""
        wanted = None
        if self.kind == "regression":
            self.ranks.fit(targets)
            values = [own.to(self.ranks.knots.dtype) for _, own in training]
            wanted = [Wanted(own, (self.ranks(own) - 0.5) * sqrt(12)) for own in values]
        self.metanet.prepare([models for models, _ in training], wanted)

    def cast(self, batch: Batch) -> Batch:
        """A batch in double precision, where the weights are."""
        dtype = self.ranks.knots.dtype
        if dtype != torch.float64:
            return batch
        return [
            (models.to(dtype), targets.to(dtype) if targets.is_floating_point() else targets)
            for models, targets in batch
        ]

    def raw(self, batch: Batch) -> Prediction:
        """One prediction a model of the batch, in its order: logits, or ranks of the target."""
        found = Prediction.joined([self.metanet(models) for models, _ in batch])
        found = found.each(lambda part: part.to(self.ranks.knots.dtype))  # mixed precision ends here
        if self.kind == "classification":
            return found
        ranks = found.each(lambda part: 0.5 + part / sqrt(12))  # ranks have this mean and this standard deviation
        return ranks._replace(embeddings=found.embeddings)

    def forward(self, batch: Batch) -> Prediction:
        """One prediction a model of the batch, in its order: logits, or numbers."""
        raw = self.raw(batch)
        return raw if self.kind == "classification" else raw._replace(outputs=self.ranks.invert(raw.outputs))


class WeightTraining(lightning.LightningModule):
    """AdamW with warm-up and cosine decay on cross-entropy, or on the squared errors of the target and of its rank.

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
        self.seen: list[tuple[Prediction, Tensor]] = []

    @property
    def best(self) -> Predictor:
        """What is validated and kept: the averaged weights, if there are any."""
        if self.averaged is None:
            return self.predictor
        averaged = self.averaged.module
        assert isinstance(averaged, Predictor)
        return averaged

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of raw outputs; both errors of a regression are relative to the variance, and count by half."""
        if self.kind == "classification":
            return F.cross_entropy(outputs, targets)
        ranks = self.predictor.ranks
        off_rank = F.mse_loss(outputs[:, 0], ranks(targets)) * 12
        off = F.mse_loss(ranks.invert(outputs[:, 0]), targets) / ranks.knots.var()
        return (off_rank + off) / 2

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(seed_of(self.config.seed, self.global_step))  # dropout as if never interrupted

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return self.predictor.cast(batch)  # zoos are in this machine's memory, and so is the metanet

    def training_step(self, batch: Batch, index: int) -> Tensor:
        targets, raw = torch.cat([targets for _, targets in batch]), self.predictor.raw(batch)
        loss = torch.stack([self.loss(outputs, targets) for outputs in raw.learned.unbind(1)]).mean()
        parts = [found for models, _ in batch if (found := self.predictor.metanet.own_loss(models)) is not None]
        own = torch.stack(parts).mean() if parts else torch.zeros_like(loss)
        predicted = self.loss(raw.outputs, targets) + own
        self.log("train_loss", predicted, on_step=False, on_epoch=True, batch_size=len(targets))
        return loss + own

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        if self.averaged is not None and self.trainer.global_step:
            self.averaged.update_parameters(self.predictor)

    def validation_step(self, batch: Batch, index: int) -> None:
        self.seen.append((self.best.raw(batch), torch.cat([targets for _, targets in batch])))

    def on_validation_epoch_end(self) -> None:
        raw, targets = Prediction.joined([raw for raw, _ in self.seen]), torch.cat([part for _, part in self.seen])
        self.seen.clear()
        outputs = raw.outputs
        if not outputs.isfinite().all():
            raise FloatingPointError(f"training diverged in epoch {self.current_epoch + 1}")
        if raw.members is not None:
            outputs = self.choose_shares(raw.members, targets)
        found = outputs if self.kind == "classification" else self.best.ranks.invert(outputs)
        values = scores(targets.numpy(), answers(found, self.kind).numpy(), self.kind)
        self.log("validation_loss", self.loss(outputs, targets))
        self.log_dict({f"validation_{name}": values[name] for name in METRICS[self.kind]})

    def choose_shares(self, members: Tensor, targets: Tensor) -> Tensor:
        """Of readers of the validation models, in what is validated and in what is trained; returns the outputs they give."""
        outputs = members[:, 0]
        for part in {*self.predictor.modules(), *self.best.modules()}:
            if isinstance(part, Mixture):
                outputs = part.choose(members, lambda outputs: self.loss(outputs, targets))
        return outputs

    def configure_optimizers(self) -> Any:
        return optimization(self.predictor, self.config, self.steps)


def optimization(network: nn.Module, config: TrainingConfig, steps: int) -> Any:
    """AdamW with warm-up and cosine decay over so many steps, as Lightning wants them."""
    optimizer = adamw(network, config)
    warmup = max(1, round(WARMUP * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 + 0.5 * cos(pi * min(1.0, (step - warmup) / max(1, steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def adamw(network: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices alone."""
    weights = [p for p in network.parameters() if p.requires_grad]
    decayed = [p for name, p in network.named_parameters() if p.ndim > 1 and name.endswith("weight")]
    chosen = {id(p) for p in decayed}
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": [p for p in weights if id(p) not in chosen], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        fused=config.precision != "bf16-mixed",  # Lightning clips no gradients of a fused one under autocast
    )


def answers(outputs: Tensor, kind: Kind) -> Tensor:
    """The most probable class, or the number, `[model]`."""
    return outputs.argmax(1) if kind == "classification" else outputs[:, 0]


@torch.no_grad()
def predict(predictor: Predictor, batches: Iterable[Batch]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Outputs `[model, outputs]` and embeddings `[model, width]` over batches, in their order."""
    predictor.eval()
    found = Prediction.joined([predictor(predictor.cast(batch)) for batch in batches])
    return found.outputs.numpy(), found.embeddings.numpy()
