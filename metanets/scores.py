"""Metrics of predictions: accuracy for classes, R² and Kendall's τ for numbers."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import kendalltau
from sklearn.metrics import r2_score

from metanets.runs import Kind

METRICS: dict[Kind, tuple[str, ...]] = {"classification": ("accuracy",), "regression": ("r2", "tau")}


def scores(targets: NDArray[np.generic], predictions: NDArray[np.generic], kind: Kind) -> dict[str, float]:
    """The metrics of one split; R² and τ of fewer than two models, or of equal targets, are NaN.

    Args:
        targets, predictions: `[model]`.
        kind: of the target.
    """
    if kind == "classification":
        return {"accuracy": float(np.mean(targets == predictions)) if len(targets) else float("nan")}
    if len(targets) < 2 or (targets == targets[0]).all():
        return {"r2": float("nan"), "tau": float("nan")}
    tau = kendalltau(targets.astype(float), predictions.astype(float)).statistic
    return {"r2": float(r2_score(targets, predictions)), "tau": float(tau)}


def split_scores(table: pd.DataFrame, kind: Kind) -> dict[str, dict[str, float]]:
    """Metrics of every split of a table with the columns `split target prediction`, with the number of models."""
    found = {}
    for split in ("train", "validation", "test"):
        rows = table[table["split"] == split]
        found[split] = {"models": len(rows), **scores(rows["target"].to_numpy(), rows["prediction"].to_numpy(), kind)}
    return found
