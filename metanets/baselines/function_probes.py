"""Probing with a linear readout: the outputs of every model on the same inputs, ridge or logistic regression on them.

Models that compute the same function get the same features, so a linear map on f(x_1), …, f(x_Q) is invariant to every
symmetry there is; it needs no weights at all, only permission to run the models. Inputs are taken from the task's training
data. Outputs enter on the scale of `metanets.probes.comparable`, standardised.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from metanets.baseline import Baseline, register
from metanets.probes import at_most, comparable
from metanets.ridge import PENALTIES
from metanets.training.data import PopulationBlock, WeightData
from modelzoo.errors import UserError
from modelzoo.family import Paper

PROBES = 64
STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # of logistic regression, the best on the validation split


def probe_inputs(block: PopulationBlock) -> Tensor:
    """`[Q, *shape]`: at most `PROBES` inputs, evenly spread over the task's training data."""
    inputs = block.population.task.data().train.inputs[0]
    return inputs[at_most(len(inputs), PROBES)]


@torch.no_grad()
def answers(data: WeightData) -> NDArray[np.floating]:
    """Features of every model, `[model, Q · outputs]`.

    Raises:
        UserError: models of some population do not take one real tensor, or populations differ in inputs or outputs.
    """
    probes, found = None, []
    for block in data.blocks:
        for rows in block.batches():
            function = block.models(rows).function
            if function is None:
                raise UserError(
                    f"population {block.population.name!r} cannot be probed: its models do not take one real tensor."
                )
            probes = probe_inputs(block) if probes is None else probes
            if tuple(probes.shape[1:]) != function.shape:
                raise UserError("populations with inputs of different shapes cannot be probed at the same inputs.")
            found.append(comparable(function(probes), function.classes).flatten(1))
    if len({part.shape[1] for part in found}) > 1:
        raise UserError("populations with outputs of different shapes cannot be compared by probing.")
    return torch.cat(found).double().nan_to_num(0.0, 20, -20).numpy()


def fit(data: WeightData, seed: int) -> NDArray[Any]:
    """Predictions of the linear readout for every model, `[model]`."""
    split, targets = data.table["split"].to_numpy(), data.table[data.target].to_numpy()
    training, validation = split == "train", split == "validation"
    raw = answers(data)
    features = StandardScaler().fit(raw[training]).transform(raw)
    if data.kind == "regression":
        return RidgeCV(alphas=PENALTIES).fit(features[training], targets[training]).predict(features)
    fitted = [LogisticRegression(C=c, max_iter=2000).fit(features[training], targets[training]) for c in STRENGTHS]
    best = max(fitted, key=lambda each: float(each.score(features[validation], targets[validation])))
    return best.predict(features)


BASELINE = register(
    Baseline(
        name="function_probes",
        fit=fit,
        paper=(Paper("Learning to Probe: Deep Linear Probe Generators for Weight Space Learning", "Kahana et al.", 2025),),
        equivariance="function",
        summary="Ridge or logistic regression on the models' outputs at fixed inputs of their task.",
    )
)  # fmt: skip
