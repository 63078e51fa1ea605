"""Kernel regression on statistics of weights that learns which of them matter, as one reader more.

Mechanism for feature learning in neural networks and backpropagation-free machine learning models (Radhakrishnan, Beaglehole,
Pandit and Belkin, 2024): features are weighted by the average gradient outer product (AGOP) of a kernel regression, the
regression is solved again with these weights, and so on. Here, of the outer product, the diagonal: one weight a statistic.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from graphs import EDGE_KINDS, EDGE_OPS
from metanets.batching import Models
from metanets.cells import CellStatistics, distribution, spectrum
from metanets.products import SIZE, products
from metanets.regression import Regression
from metanets.states import soft

FINE = tuple(k / 14 for k in range(15))  # quantiles: a kernel does not have to learn what to do with each
READINGS: tuple[tuple[Callable[[Models], Tensor], int], ...] = (
    (partial(distribution, fractions=FINE), 2 + len(FINE)),
    (partial(spectrum, fractions=FINE), len(FINE)),
    (products, SIZE),
)
SUPPORT = 2048  # models that it is fitted to, at most: time grows as their cube
ROUNDS = 2  # of weighting features
BANDWIDTHS = (1.0, 2.0, 4.0)  # relative to the root mean square distance of two models
PENALTIES = tuple(10 ** (k / 2) for k in range(-8, 3))  # the best, and the best bandwidth, leave one model out
SHAPED = ("support", "coefficients", "relevance", "constant")  # buffers as large as the training models make them


class RecursiveFeatureMachine(Regression):
    """v = c + Σ_j α_j exp(−‖x − x_j‖_M / L), with ‖z‖_M² = Σ_k M_k z_k² and statistics x_j of training models.

    M begins at one; then ROUNDS times M_k = mean_j (∂v/∂x_k at x_j)², over their sum, and α is solved again, with the
    bandwidth L and the penalty that predict every training model best from the others. Statistics are those of
    `metanets.cells` with 15 quantiles, and `metanets.products`, standardised; of a cell that a model does not have, zero.
    """

    support: Tensor
    coefficients: Tensor
    relevance: Tensor
    constant: Tensor
    bandwidth: Tensor

    def __init__(self) -> None:
        super().__init__(SUPPORT)
        kinds, ops = len(EDGE_KINDS), len(EDGE_OPS)
        self.statistics = nn.ModuleList(CellStatistics(kinds, ops, read, size) for read, size in READINGS)
        self.register_buffer("support", torch.zeros(0, 0))  # x √M, [n, F]
        self.register_buffer("coefficients", torch.zeros(0, 0))  # α, [n, values]
        self.register_buffer("relevance", torch.zeros(0))  # M
        self.register_buffer("constant", torch.zeros(0))  # c, [values]
        self.register_buffer("bandwidth", torch.ones(()))  # L

    def ready(self, training: Sequence[Models]) -> None:
        for statistics in self.statistics:
            assert isinstance(statistics, CellStatistics)
            statistics.fit(training)

    def features(self, models: Models) -> Tensor:
        """Statistics that vary over the training models, `[M, F]`."""
        found, at = [], tuple(models.topology.cells.T)
        for statistics in self.statistics:
            assert isinstance(statistics, CellStatistics)
            table = statistics.scale.new_zeros(len(models), *statistics.scale.shape)
            table[:, *at] = soft(statistics(models)).transpose(0, 1)
            found.append(table[:, statistics.scale > 0])
        return torch.cat(found, 1)

    def fit(self, features: Tensor, values: Tensor) -> None:
        self.solve(features, values[:, None])

    def solve(self, features: Tensor, values: Tensor) -> None:
        """Fit it to features `[n, F]` and several values a model, `[n, values]`, in double precision."""
        mean, deviation = values.mean(0), values.std(0, correction=0).clamp_min(1e-12)
        relevance = features.new_ones(features.shape[1])
        for done in range(ROUNDS + 1):
            support = features * relevance.sqrt()
            coefficients, bandwidth, sensitivity = solved(support, (values - mean) / deviation)
            if done < ROUNDS:
                relevance = relevance * sensitivity  # ∂v/∂x is √M times ∂v/∂(x √M)
                relevance = relevance / relevance.sum().clamp_min(1e-300)
        found = (support, deviation * coefficients, relevance, mean)
        self.support, self.coefficients, self.relevance, self.constant = (part.to(self.knots.dtype) for part in found)
        self.bandwidth.copy_(bandwidth)

    def say(self, features: Tensor) -> Tensor:
        """What it predicts, `[M, values]`."""
        kernel = (-distances(features * self.relevance.sqrt(), self.support) / self.bandwidth).exp()
        return kernel @ self.coefficients + self.constant

    def values(self, features: Tensor) -> Tensor:
        return self.say(features)[:, 0]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in SHAPED:
            if prefix + name in state_dict:
                setattr(self, name, getattr(self, name).new_zeros(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """`[m, F]` and `[n, F]` to `[m, n]`; by differences, for the root of what products leave of zero is not zero."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def solved(x: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel ridge regression of the least mean squared error of every model predicted from the others.

    With the eigenvectors of the kernel K, α = (K + λ)⁻¹ v is known for every λ at once, and the error of a model that was left
    out is α_i / ((K + λ)⁻¹)_ii.

    Args:
        x: `[n, F]`.
        values: standardised, `[n, values]`.

    Returns:
        Coefficients α `[n, values]`, the bandwidth, and the mean square of the derivatives of all values by every coordinate
        of x, over the models, `[F]`.
    """
    distance = distances(x, x)
    size = distance.square().mean().sqrt().clamp_min(1e-12)
    best: tuple[Tensor, Tensor, Tensor] | None = None
    least = torch.inf
    for width in BANDWIDTHS:
        kernel = (-distance / (width * size)).exp()
        eigenvalues, vectors = torch.linalg.eigh(kernel)
        rotated = vectors.T @ values
        for penalty in PENALTIES:
            inverse = 1 / (eigenvalues.clamp_min(0) + penalty)
            coefficients = vectors @ (inverse[:, None] * rotated)
            error = float((coefficients / (vectors.square() @ inverse)[:, None]).square().mean())
            if error < least:
                least, best = error, (coefficients, width * size, kernel)
    if best is None:
        raise FloatingPointError("no penalty gives finite errors")
    coefficients, bandwidth, kernel = best
    slope = torch.where(distance > 0, -kernel / (bandwidth * distance.clamp_min(1e-12)), 0)  # [at, from]
    sensitivity = torch.zeros_like(x[0])
    for own in coefficients.unbind(1):
        pull = slope * own
        sensitivity += (x * pull.sum(1, keepdim=True) - pull @ x).square().mean(0)
    return coefficients, bandwidth, sensitivity
