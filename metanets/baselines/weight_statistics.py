"""The strong baseline: gradient-boosted trees on statistics of every weight tensor (see `metanets.statistics`).

Statistics are computed model by model, so the weights of a few models are in memory at once.

Predicting Neural Network Accuracy from Weights (Unterthiner et al., 2020).
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from metanets.baseline import Baseline, register
from metanets.statistics import fit_trees, weight_statistics
from metanets.training.data import PopulationBlock, WeightData
from modelzoo.family import Paper


def features(block: PopulationBlock) -> pd.DataFrame:
    """One row a model."""
    return pd.concat([weight_statistics(block.reading.take(rows)) for rows in block.batches()], ignore_index=True)


def fit(data: WeightData, seed: int) -> NDArray[Any]:
    """Predictions of trees for every model of one architecture, `[model]`."""
    training = np.asarray(data.table["split"] == "train")
    return fit_trees(features(data.blocks[0]), data.table[data.target].to_numpy(), training, data.kind, seed)


BASELINE = register(
    Baseline(
        name="weight_statistics",
        fit=fit,
        paper=(Paper("Predicting Neural Network Accuracy from Weights", "Unterthiner et al.", 2020),),
        equivariance="permutation",
        summary="Gradient-boosted trees on means, variances and quantiles of every weight tensor.",
        one_architecture=True,
    )
)
