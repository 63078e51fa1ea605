"""Readers that never learn by steps: regressions that are fitted to the training models before training, in closed form.

They err elsewhere than networks do, so that a mixture of both predicts better than either (see `metanets.readout.Mixture`).
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from metanets.batching import Models
from metanets.metanet import Prepared, Wanted
from metanets.probes import at_most, evenly, some

KNOTS = 65  # of the outputs that stand for values, as many as `metanets.training.module.Ranks` has


class Regression(Prepared):
    """y = s(v), with v the value that the regression says, in the target's unit, and s the output that stands for it.

    s is linear between values of training models. Subclasses define what they read of models, how they are fitted to it and
    what they say.

    Args:
        most: training models that it is fitted to, at most, at even distances.

    Shape:
        models to `[M, 1]`.
    """

    knots: Tensor
    fitted: Tensor

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.register_buffer("knots", torch.zeros(2, KNOTS))  # values, outputs
        self.register_buffer("fitted", torch.tensor(False))  # before, it has nothing to say

    @abstractmethod
    def ready(self, training: Sequence[Models]) -> None:
        """Set what `features` needs."""

    @abstractmethod
    def features(self, models: Models) -> Tensor:
        """What is read of models, `[M, F]`."""

    @abstractmethod
    def fit(self, features: Tensor, values: Tensor) -> None:
        """Fit the regression to finite features `[n, F]` and values `[n]` in double precision."""

    @abstractmethod
    def values(self, features: Tensor) -> Tensor:
        """What the regression says, `[M]`."""

    @torch.no_grad()
    def read(self, training: Sequence[Models]) -> tuple[Tensor, Tensor]:
        """Features of the models that it is to be fitted to, `[n, F]`, and their rows, counted through all architectures."""
        self.ready(training)
        rows = at_most(sum(map(len, training)), self.most)
        features = torch.cat([
            self.features(few.to(self.knots.dtype))
            for models, own in chosen(training, rows) if len(own) for few in some(models, own)
        ])  # fmt: skip
        return features.double(), rows

    @torch.no_grad()
    def begin(self, training: Sequence[Models], wanted: Sequence[Wanted] | None) -> None:
        """Fit it; where no numbers are wanted, or features are no numbers, it is not fitted."""
        if wanted is None:
            return
        features, rows = self.read(training)
        if not features.isfinite().all():
            return
        values, outputs = (torch.cat(part)[rows].double() for part in zip(*wanted, strict=True))
        self.fit(features, values)
        rising = values.argsort()[evenly(len(values), KNOTS)]
        self.knots.copy_(torch.stack([values[rising], outputs[rising]]))
        self.fitted.fill_(True)

    def forward(self, models: Models) -> Tensor:
        with torch.autocast(models.values.device.type, enabled=False):
            values = self.values(self.features(models))
        above = torch.searchsorted(self.knots[0], values.detach()).clamp(1, KNOTS - 1)
        (low, lowest), (high, highest) = self.knots[:, above - 1], self.knots[:, above]
        share = ((values - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)  # nothing lies beyond what training had
        return (lowest + share * (highest - lowest))[:, None]


def chosen(training: Sequence[Models], rows: Tensor) -> Iterator[tuple[Models, Tensor]]:
    """Every architecture's models with those of the rows that are its own; rows are counted through all architectures."""
    first = 0
    for models in training:
        yield models, rows[(rows >= first) & (rows < first + len(models))] - first
        first += len(models)
