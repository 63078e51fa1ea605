"""Extreme eigenvalues of a curvature operator by Lanczos, with a residual for each, and traces by random probes.

Every eigenvalue comes with ‖A v − λ v‖, computed from a product of its own; by symmetry some eigenvalue of A lies within
that distance of λ. `converged` says whether it is below the tolerance: an iteration that stops early says so.
Full re-orthogonalisation: no ghost copies.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Literal, Protocol

import torch
from torch import Tensor


class Operator(Protocol):
    """What can be multiplied with a vector."""

    shape: tuple[int, int]
    dtype: torch.dtype

    def __matmul__(self, other: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Eigenvalues:
    """Eigenpairs at one end of a spectrum.

    Args:
        values: `[k]`, the outermost first.
        vectors: `[P, k]`.
        residuals: `[k]` ‖A v − λ v‖.
        tolerance: relative to the largest |λ| met.
        iterations: products with A in the iteration.
        scale: the largest |λ| met.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    tolerance: float
    iterations: int
    scale: float

    @property
    def converged(self) -> Tensor:
        """`[k]` whether the residual is below the tolerance."""
        return self.residuals <= self.tolerance * self.scale


def lanczos(
    operator: Operator, count: int = 1, which: Literal["largest", "smallest"] = "largest", tolerance: float = 1e-6,
    most: int = 200, seed: int = 0,
) -> Eigenvalues:  # fmt: skip
    """The largest or smallest eigenvalues of a symmetric operator.

    Args:
        operator: `[P, P]`.
        count: how many.
        which: end of the spectrum.
        tolerance: on residuals, relative to the largest |λ| met.
        most: products at most; `converged` tells whether they were enough.
        seed: of the start.
    """
    size, most = operator.shape[0], min(most, operator.shape[0])
    generator = torch.Generator().manual_seed(seed)
    basis = torch.zeros(most, size, dtype=operator.dtype)
    alpha, beta = torch.zeros(most, dtype=operator.dtype), torch.zeros(most, dtype=operator.dtype)
    vector = torch.randn(size, generator=generator, dtype=operator.dtype)
    vector /= vector.norm()
    steps = 0
    while steps < most:
        basis[steps] = vector
        image = operator @ vector
        alpha[steps] = vector @ image
        known = basis[: steps + 1]
        for _ in range(2):  # twice is enough
            image = image - known.T @ (known @ image)
        beta[steps] = image.norm()
        steps += 1
        scale = float((alpha[:steps].abs() + beta[:steps]).max())
        if float(beta[steps - 1]) <= 1e-14 * max(scale, 1e-300):  # an invariant subspace: go on in a fresh direction
            if steps == most:
                break
            image = torch.randn(size, generator=generator, dtype=operator.dtype)
            for _ in range(2):
                image = image - known.T @ (known @ image)
            beta[steps - 1] = 0
            vector = image / image.norm()
        else:
            vector = image / beta[steps - 1]
        if steps >= count and (steps % 5 == 0 or steps == most):
            values, rotations = _ritz(alpha, beta, steps, which)
            bounds = beta[steps - 1] * rotations[-1, :count].abs()
            if steps > count and bool((bounds <= 0.5 * tolerance * values.abs().max()).all()) and float(beta[steps - 1]) > 0:  # fmt: skip
                break
    values, rotations = _ritz(alpha, beta, steps, which)
    vectors = basis[:steps].T @ rotations[:, :count]
    vectors = vectors / vectors.norm(dim=0)
    residuals = (operator @ vectors - vectors * values[:count]).norm(dim=0)
    return Eigenvalues(values[:count], vectors, residuals, tolerance, steps, float(values.abs().max()))


def _ritz(alpha: Tensor, beta: Tensor, steps: int, which: str) -> tuple[Tensor, Tensor]:
    """Eigenvalues of the tridiagonal matrix, the outermost at the wanted end first, and their vectors."""
    off = beta[: steps - 1]
    values, rotations = torch.linalg.eigh(torch.diag(alpha[:steps]) + torch.diag(off, 1) + torch.diag(off, -1))
    return (values.flip(0), rotations.flip(1)) if which == "largest" else (values, rotations)


@dataclass(frozen=True)
class Trace:
    """An estimate of a trace.

    Args:
        value: the mean over probes.
        error: its standard error; 0 where the trace is exact.
        probes: how many.
    """

    value: float
    error: float
    probes: int


def hutchinson(operator: Operator, probes: int = 30, seed: int = 0) -> Trace:
    """tr A ≈ mean of zᵀ A z over random signs z (Hutchinson, 1989).

    Args:
        operator: `[P, P]`.
        probes: how many products.
        seed: of the probes.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(probes):
        z = torch.randint(0, 2, (operator.shape[0],), generator=generator).to(operator.dtype) * 2 - 1
        found.append(z @ (operator @ z))
    values = torch.stack(found)
    return Trace(float(values.mean()), float(values.std() / sqrt(probes)) if probes > 1 else float("nan"), probes)
