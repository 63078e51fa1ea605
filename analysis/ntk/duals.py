"""Dual activations: E[φ(u) φ(v)] and E[φ'(u) φ'(v)] for centred Gaussian pairs (u, v).

Papers: Kernel Methods for Deep Learning (Cho and Saul, 2009), for ReLU; Computing with Infinite Networks (Williams,
1996), for erf.
"""

from collections.abc import Callable
from math import pi, sqrt

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Dual = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""`(E[u²], E[uv], E[v²]) -> (E[φ(u) φ(v)], E[φ'(u) φ'(v)])`, shapes that broadcast."""

NODES = 80  # of the Gauss–Hermite rule in each direction
CHUNK = 2**22  # function values held at once


def relu(a: Tensor, c: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Arc-cosine kernels of degree 1 and 0: √(ab)(sin θ + (π − θ) cos θ)/2π and (π − θ)/2π with cos θ = c/√(ab)."""
    scale = (a * b).sqrt()
    cosine = (c / scale.clamp_min(torch.finfo(c.dtype).tiny)).clamp(-1, 1)
    angle = torch.arccos(cosine)
    sine = (1 - cosine.square()).sqrt()
    return scale * (sine + (pi - angle) * cosine) / (2 * pi), (pi - angle) / (2 * pi)


def erf(a: Tensor, c: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(2/π) arcsin(2c/√((1+2a)(1+2b))) and (4/π)/√((1+2a)(1+2b) − 4c²)."""
    product = (1 + 2 * a) * (1 + 2 * b)
    return 2 / pi * torch.arcsin(2 * c / product.sqrt()), 4 / pi / (product - 4 * c.square()).sqrt()


def identity(a: Tensor, c: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """c and 1."""
    return c, torch.ones_like(c)


def quadrature(activation: Callable[[Tensor], Tensor], nodes: int = NODES) -> Dual:
    """The dual of any smooth activation by Gauss–Hermite quadrature in two dimensions.

    Args:
        activation: pointwise and differentiable; at kinks the rule converges slowly (see `relu`).
        nodes: in each direction.
    """
    at, weights = (torch.from_numpy(x) for x in np.polynomial.hermite_e.hermegauss(nodes))
    weights = weights / sqrt(2 * pi)

    def derivative(x: Tensor) -> Tensor:
        return torch.func.jvp(activation, (x,), (torch.ones_like(x),))[1]

    def dual(a: Tensor, c: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        a, c, b = (x.double().contiguous() for x in torch.broadcast_tensors(a, c, b))
        found: list[list[Tensor]] = [[], []]
        step = max(1, CHUNK // nodes**2)
        for own, cross, other in zip(*(x.flatten().split(step) for x in (a, c, b)), strict=True):
            # u = √a z, v = (c/√a) z + √(b − c²/a) y with independent z, y
            slope = cross / own.clamp_min(1e-300).sqrt()
            u = own.sqrt()[:, None] * at
            v = slope[:, None, None] * at[:, None] + (other - slope.square()).clamp_min(0).sqrt()[:, None, None] * at
            for place, function in enumerate((activation, derivative)):
                inner = function(v) @ weights
                found[place].append((function(u) * inner) @ weights)
        value, slope = (torch.cat(part).view(c.shape) for part in found)
        return value, slope

    return dual


DUALS: dict[str, Dual] = {
    "relu": relu, "erf": erf, "identity": identity, "gelu": quadrature(F.gelu), "tanh": quadrature(torch.tanh),
    "silu": quadrature(F.silu), "sigmoid": quadrature(torch.sigmoid), "sin": quadrature(torch.sin),
    "cos": quadrature(torch.cos), "softplus": quadrature(F.softplus),
}  # fmt: skip
