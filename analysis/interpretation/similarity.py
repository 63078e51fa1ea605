"""Similarity of representations: numbers in [0, 1] that do not see rotations and scales of either space.

CKA: "Similarity of Neural Network Representations Revisited" (Kornblith, Norouzi, Lee and Hinton, 2019); RSA:
"Representational similarity analysis" (Kriegeskorte, Mur and Bandettini, 2008); Procrustes: "Grounding Representation
Similarity with Statistical Testing" (Ding, Denain and Steinhardt, 2021).
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from modelzoo.errors import UserError


def _centred(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if len(x) != len(y) or len(x) < 3:
        raise UserError(f"representations need three or more samples in common, got {len(x)} and {len(y)}; take both on the same inputs.")  # fmt: skip
    x, y = x.flatten(1).double(), y.flatten(1).double()
    return x - x.mean(0), y - y.mean(0)


def cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment, ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) of centred representations.

    Args:
        x, y: `[N, d]` and `[N, e]`, rows of the same samples.

    Raises:
        UserError: they have different numbers of samples.
    """
    x, y = _centred(x, y)
    if min(x.shape[1], y.shape[1]) > len(x):
        k, m = x @ x.T, y @ y.T
        return float((k * m).sum() / (k.norm() * m.norm()).clamp_min(1e-300))
    return float((y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()).clamp_min(1e-300))


def rsa(x: Tensor, y: Tensor) -> float:
    """Spearman's rank correlation of the distances between samples in either space; see `cka` for arguments."""
    x, y = _centred(x, y)
    rows, columns = torch.triu_indices(len(x), len(x), 1)
    return float(spearmanr(torch.cdist(x, x)[rows, columns].numpy(), torch.cdist(y, y)[rows, columns].numpy())[0])


def procrustes(x: Tensor, y: Tensor) -> float:
    """‖XᵀY‖_* of representations centred and scaled to norm one: 1 − half the squared distance after the best rotation.

    See `cka` for arguments.
    """
    x, y = _centred(x, y)
    x, y = x / x.norm().clamp_min(1e-300), y / y.norm().clamp_min(1e-300)
    return float(torch.linalg.matrix_norm(x.T @ y, "nuc"))


def neighbours(x: Tensor, y: Tensor, count: int = 10) -> float:
    """Mean Jaccard overlap of the `count` nearest neighbours by cosine in either space; see `cka` for arguments."""
    x, y = _centred(x, y)
    nearest = []
    for each in (x, y):
        unit = torch.nn.functional.normalize(each, dim=1)
        closeness = (unit @ unit.T).fill_diagonal_(-np.inf)
        chosen = torch.zeros_like(closeness, dtype=torch.bool)
        nearest.append(chosen.scatter_(1, closeness.topk(min(count, len(x) - 1), dim=1).indices, True))
    both, either = (nearest[0] & nearest[1]).sum(1), (nearest[0] | nearest[1]).sum(1)
    return float((both / either).mean())


METRICS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "cka": cka, "rsa": rsa, "procrustes": procrustes, "neighbours": neighbours,
}  # fmt: skip
