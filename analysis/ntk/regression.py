"""Kernel regression and the linearized training that it is the end of.

With f₀ the network at its start, Θ the tangent kernel and gradient descent on Σ (f − y)² / 2 in continuous time t,

    f_t(x) = f₀(x) + Θ(x, X) Θ⁻¹ (1 − exp(−Θ t)) (y − f₀(X)),

and over random starts with covariance K (an infinitely wide network) the limit is Gaussian with

    μ = Θ_xX Θ⁻¹ y,   Σ = K_xx + Θ_xX Θ⁻¹ K_XX Θ⁻¹ Θ_Xx − (Θ_xX Θ⁻¹ K_Xx + its transpose).

Paper: Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient Descent (Lee et al., 2019).
"""

import torch
from torch import Tensor


def regress(
    train: Tensor, cross: Tensor, targets: Tensor, start: tuple[Tensor, Tensor] | None = None, ridge: float = 0.0,
    time: float | None = None,
) -> Tensor:  # fmt: skip
    """Predictions of linearized training.

    Args:
        train: Θ(X, X), `[N, N]`.
        cross: Θ(x, X), `[M, N]`.
        targets: y, `[N, K]`.
        start: f₀(X) `[N, K]` and f₀(x) `[M, K]`, None for zero.
        ridge: added to the eigenvalues of Θ, relative to their mean.
        time: t; None for infinity.

    Returns:
        `[M, K]`, in float64.
    """
    train, cross, targets = train.double(), cross.double(), targets.double()
    if start is not None:
        targets = targets - start[0].double()
    values, vectors = torch.linalg.eigh(train)
    shifted = values + ridge * values.mean()
    filtered = 1 / shifted if time is None else -torch.expm1(-shifted * time) / shifted
    coefficients = vectors @ (filtered[:, None] * (vectors.T @ targets))
    predicted = cross @ coefficients
    return predicted if start is None else predicted + start[1].double()


def gaussian_limit(theta: Tensor, covariance: Tensor, train: int, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over random starts of infinitely wide networks after training.

    Args:
        theta: Θ of training samples followed by others, `[N + M, N + M]`.
        covariance: K of the same.
        train: N.
        targets: `[N, K]`.

    Returns:
        Means `[M, K]` and variances `[M]` (every output has the same).
    """
    theta, covariance = theta.double(), covariance.double()
    weights = torch.linalg.solve(theta[:train, :train], theta[:train, train:]).T  # Θ_xX Θ⁻¹
    k_train, k_cross = covariance[:train, :train], covariance[train:, :train]
    variance = covariance.diagonal()[train:] + ((weights @ k_train) * weights).sum(1) - 2 * (weights * k_cross).sum(1)
    return weights @ targets.double(), variance.clamp_min(0)


def alignment(kernel: Tensor, targets: Tensor) -> float:
    """⟨HKH, HYYᵀH⟩ / (‖HKH‖ ‖HYYᵀH‖) with H the centring matrix: 1 where the kernel is that of the targets."""

    def centred(matrix: Tensor) -> Tensor:
        return matrix - matrix.mean(0) - matrix.mean(1, keepdim=True) + matrix.mean()

    k, y = centred(kernel.double()), centred(targets.double() @ targets.double().T)
    return float((k * y).sum() / (k.norm() * y.norm()))
