"""The strong baseline: gradient-boosted trees on statistics of every weight tensor.

Predicting Neural Network Accuracy from Weights (Unterthiner et al., 2020): per layer mean, variance and the quantiles
0, 25, 50, 75, 100% of weights and of biases, then gradient boosting. The statistics are invariant to permutations.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from torch import Tensor

from metanets.runs import Kind

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
NAMES = ("mean", "variance", *(f"q{round(100 * q)}" for q in QUANTILES))


def weight_statistics(stacked: Mapping[str, Tensor]) -> pd.DataFrame:
    """Statistics of every tensor of every model.

    Args:
        stacked: `{name: [model, *shape]}`; complex tensors are read as twice as many real ones.

    Returns:
        One row a model, columns `<tensor>/<statistic>`; a tensor of one entry has only its `mean`.
    """
    columns: dict[str, NDArray[np.floating]] = {}
    for name, tensor in stacked.items():
        values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        rows = values.flatten(1).double() if values.ndim > 1 else values.double()[:, None]
        if rows.shape[1] == 0 or (not tensor.dtype.is_floating_point and not tensor.is_complex()):
            continue
        columns[f"{name}/mean"] = rows.mean(1).numpy()
        if rows.shape[1] > 1:
            quantiles = torch.quantile(rows, torch.tensor(QUANTILES, dtype=rows.dtype), dim=1)
            for label, column in zip(NAMES[1:], (rows.var(1, correction=0), *quantiles), strict=True):
                columns[f"{name}/{label}"] = column.numpy()
    return pd.DataFrame(columns)


def fit_trees(
    features: pd.DataFrame, targets: NDArray[np.generic], training: NDArray[np.bool_], kind: Kind, seed: int
) -> NDArray[np.generic]:
    """Predictions for every row of trees fitted on the rows of the training split.

    Args:
        features: one row a model.
        targets: `[model]`.
        training: `[model]`, the rows to fit on.
        kind: of the target.
        seed: of the trees.
    """
    estimator = HistGradientBoostingClassifier if kind == "classification" else HistGradientBoostingRegressor
    trees = estimator(max_iter=200, learning_rate=0.05, min_samples_leaf=10, early_stopping=False, random_state=seed)
    trees.fit(features[training], targets[training])
    return trees.predict(features)
