"""Ridge regression on the answers of the models at fixed inputs, as one reader more.

How good a model is, answers say almost linearly, and a regression whose penalty leaves one model out does not learn a few
hundred models by heart.
"""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from metanets.batching import Models
from metanets.probes import ProbeStart, comparable, examples, function_of, noise
from metanets.regression import Regression

PENALTIES = np.logspace(-2, 5, 15)  # the best is chosen by leaving one model out
REGRESSED = 4096  # models that it is fitted to, at most


class Ridge(Regression):
    """v = w·a + c of the answers a of a model, where w and c minimise Σ (v − w·a − c)² + λ Σ_k σ_k² w_k² over training models.

    σ_k is the standard deviation of an answer. Answers are read on the scale of `metanets.probes.comparable`.

    Args:
        count: inputs, Q.
        shape: of one of them.
        answers: outputs of a model.
        start: whether the inputs are data that the models were trained on, or noise, see `metanets.probes.Probes`.
    """

    inputs: Tensor
    weight: Tensor
    constant: Tensor

    def __init__(self, count: int, shape: Sequence[int], answers: int, start: ProbeStart) -> None:
        super().__init__(REGRESSED)
        self.start = start
        self.register_buffer("inputs", noise(count, shape))
        self.register_buffer("weight", torch.zeros(count * answers))
        self.register_buffer("constant", torch.zeros(()))

    def ready(self, training: Sequence[Models]) -> None:
        if self.start == "data":
            self.inputs.copy_(examples(training, len(self.inputs)))

    def features(self, models: Models) -> Tensor:
        """Answers, `[M, Q · outputs]`."""
        function = function_of(models)
        return comparable(function(self.inputs), function.classes).flatten(1)

    def fit(self, features: Tensor, values: Tensor) -> None:
        scaler = StandardScaler()
        found = RidgeCV(alphas=PENALTIES).fit(scaler.fit_transform(features.numpy()), values.numpy())
        weight = found.coef_ / scaler.scale_
        self.weight.copy_(torch.from_numpy(weight))
        self.constant.fill_(found.intercept_ - weight @ scaler.mean_)

    def values(self, features: Tensor) -> Tensor:
        return features @ self.weight + self.constant
