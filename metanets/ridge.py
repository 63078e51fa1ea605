"""A reader that never learns: ridge regression on the answers of the models at fixed inputs.

How good a model is, answers say almost linearly, and a regression whose penalty leaves one model out does not learn a few
hundred models by heart. It errs elsewhere than networks do, so that a mixture of both predicts better than either.
"""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from metanets.batching import ModelFunction, Models
from metanets.metanet import Prepared, Wanted
from metanets.probes import ProbeStart, at_most, comparable, evenly, examples, function_of, noise, some

PENALTIES = np.logspace(-2, 5, 15)  # the best is chosen by leaving one model out
REGRESSED = 4096  # models of an architecture that it is fitted to, at most
KNOTS = 65  # of the outputs that stand for values, as many as `metanets.training.module.Ranks` has


class Ridge(Prepared):
    """y = s(w·a + c) of the answers a of a model, where w and c minimise Σ (v − w·a − c)² + λ Σ_k σ_k² w_k² before training.

    v are values in the target's unit, σ_k the standard deviation of an answer, and s, linear between values of training
    models, gives the output that stands for a value. Answers are read on the scale of `metanets.probes.comparable`.

    Args:
        count: inputs, Q.
        shape: of one of them.
        answers: outputs of a model.
        start: whether the inputs are data that the models were trained on, or noise, see `metanets.probes.Probes`.

    Shape:
        models to `[M, 1]`.
    """

    inputs: Tensor
    weight: Tensor
    constant: Tensor
    knots: Tensor
    fitted: Tensor

    def __init__(self, count: int, shape: Sequence[int], answers: int, start: ProbeStart) -> None:
        super().__init__()
        self.start = start
        self.register_buffer("inputs", noise(count, shape))
        self.register_buffer("weight", torch.zeros(count * answers))
        self.register_buffer("constant", torch.zeros(()))
        self.register_buffer("knots", torch.zeros(2, KNOTS))  # values, outputs
        self.register_buffer("fitted", torch.tensor(False))  # before, it has nothing to say

    @torch.no_grad()
    def begin(self, training: Sequence[Models], wanted: Sequence[Wanted] | None) -> None:
        """Take the inputs and fit the regression; where no numbers are wanted, or answers are no numbers, it is not fitted."""
        if wanted is None:
            return
        if self.start == "data":
            self.inputs.copy_(examples(training, len(self.inputs)))
        answers = torch.cat([
            self.answers(few.to(self.inputs.dtype)) for models in training for few in some(function_of(models), REGRESSED)
        ]).double()  # fmt: skip
        if not answers.isfinite().all():
            return
        read = [at_most(len(each.values), REGRESSED) for each in wanted]  # as `some` takes them
        values, outputs = (torch.cat([part[rows].double() for part, rows in zip(parts, read, strict=True)]) for parts in zip(*wanted, strict=True))  # fmt: skip
        scaler = StandardScaler()
        found = RidgeCV(alphas=PENALTIES).fit(scaler.fit_transform(answers.numpy()), values.numpy())
        weight = found.coef_ / scaler.scale_
        self.weight.copy_(torch.from_numpy(weight))
        self.constant.fill_(found.intercept_ - weight @ scaler.mean_)
        rising = values.argsort()[evenly(len(values), KNOTS)]
        self.knots.copy_(torch.stack([values[rising], outputs[rising]]))
        self.fitted.fill_(True)

    def answers(self, function: ModelFunction) -> Tensor:
        """`[M, Q · outputs]`."""
        return comparable(function(self.inputs), function.classes).flatten(1)

    def forward(self, models: Models) -> Tensor:
        values = self.answers(function_of(models)) @ self.weight + self.constant
        above = torch.searchsorted(self.knots[0], values.detach()).clamp(1, KNOTS - 1)
        (low, lowest), (high, highest) = self.knots[:, above - 1], self.knots[:, above]
        share = ((values - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)  # nothing lies beyond what training had
        return (lowest + share * (highest - lowest))[:, None]
