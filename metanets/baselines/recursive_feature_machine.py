"""Kernel regression on statistics of weights that learns which of them matter (see `metanets.recursive_feature_machine`).

It says in seconds, without steps of training, what statistics say. Classes are told apart by their indicators.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from metanets.baseline import Baseline, register
from metanets.recursive_feature_machine import RecursiveFeatureMachine
from metanets.training.data import WeightData
from modelzoo.errors import UserError
from modelzoo.family import Paper


@torch.no_grad()
def fit(data: WeightData, seed: int) -> NDArray[Any]:
    """Predictions for every model, `[model]`; nothing in it is random."""
    machine, batch = RecursiveFeatureMachine().double(), data.training_batch()
    targets = torch.cat([own for _, own in batch])
    features, rows = machine.read([models for models, _ in batch])
    if not features.isfinite().all():
        raise UserError("weights of some models are too large for statistics of them; leave these models out.")
    classes = data.kind == "classification"
    values = F.one_hot(targets.long(), len(data.classes)) if classes else targets[:, None]
    machine.solve(features, values[rows].double())
    said = torch.cat([
        machine.say(machine.features(block.models(rows))) for block in data.blocks for rows in block.batches()
    ])  # fmt: skip
    return np.asarray(said.argmax(1) if classes else said[:, 0])


BASELINE = register(
    Baseline(
        name="recursive_feature_machine",
        fit=fit,
        paper=(Paper("Mechanism for feature learning in neural networks and backpropagation-free machine learning models", "Radhakrishnan et al.", 2024),),
        equivariance="permutation",
        summary="Kernel regression on statistics of weights that learns which of them matter.",
    )
)  # fmt: skip
