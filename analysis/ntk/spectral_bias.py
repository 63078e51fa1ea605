"""Spectral bias of polynomial networks: on the circle a product of two ReLU layers learns high frequencies sooner.

"The Spectral Bias of Polynomial Neural Networks" (Choraria, Dadi, Chrysos, Mairal and Cevher, 2022; row S158). Two networks
of width m without output bias, all weights and biases N(0, 1):

    perceptron:  f(x) = √(2/m) Σ c_i σ(a_i · x + a'_i),
    product:     f(x) = √(2²/m) Σ c_i σ(a_i · x + a'_i) σ(b_i · x + b'_i).

Their kernels on the circle depend on the angle alone, so frequencies are eigenfunctions and the eigenvalue λ_k is how
fast frequency k is learnt. With κ₁, κ₀ the arc-cosine kernels of t = (x · x' + 1)/2, the product has κ₁² + 2·2 t κ₀ κ₁.
"""

from dataclasses import dataclass
from math import pi

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from analysis.analysis import Options, analysis
from analysis.ntk.duals import relu
from analysis.ntk.empirical import empirical_kernel
from analysis.theme import CATEGORICAL, figure

ROW = "S158"  # of the paper catalogue


class Perceptron(nn.Module):
    """f(x) = √(2/m) Σ c_i σ(a_i · x + a'_i)."""

    factors = 1

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList(nn.Linear(2, width, dtype=torch.float64) for _ in range(self.factors))
        self.head = nn.Linear(width, 1, bias=False, dtype=torch.float64)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
        self.scale = (2**self.factors / width) ** 0.5

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor | float = self.scale
        for layer in self.layers:
            h = layer(x).relu() * h
        assert isinstance(h, Tensor)
        return self.head(h)


class Product(Perceptron):
    """f(x) = √(4/m) Σ c_i σ(a_i · x + a'_i) σ(b_i · x + b'_i)."""

    factors = 2


def circle(points: int) -> Tensor:
    """Points at equal angles, `[points, 2]`."""
    angle = torch.arange(points, dtype=torch.float64) * 2 * pi / points
    return torch.stack([angle.cos(), angle.sin()], 1)


def frequencies(kernel: Tensor) -> NDArray[np.float64]:
    """Eigenvalues by frequency of a kernel on equal angles: the mean over pairs at one distance, then Fourier."""
    count = len(kernel)
    shifted = torch.stack([row.roll(-place) for place, row in enumerate(kernel)]).mean(0)
    return (torch.fft.rfft(shifted).real / count).numpy()


def infinite_spectrum(factors: int, points: int = 4096) -> NDArray[np.float64]:
    """Eigenvalues by frequency at infinite width."""
    x = circle(points)
    t = x @ x[0] + 1  # pre-activations have covariance x·x' + 1
    two = torch.full_like(t, 2)
    value, slope = (2 * part for part in relu(two, t, two))
    kernel = value**factors + factors * t * slope * value ** (factors - 1)
    return (torch.fft.rfft(kernel).real / points).numpy()


@dataclass(frozen=True)
class SpectralBias:
    """Spectra of both networks on the circle.

    Args:
        perceptron: λ_k of the finite perceptron, k = 0, 1, …
        product: of the finite product.
        limits: the same at infinite width, `[2, k]`.
        halving: by network, gradient steps at η = 1/λ_max until frequency 5 of Σ_k sin(kθ) is halved.
    """

    perceptron: NDArray[np.float64]
    product: NDArray[np.float64]
    limits: NDArray[np.float64]
    halving: tuple[int, int]

    @property
    def gains(self) -> NDArray[np.float64]:
        """(λ_k/λ_1 of the product) / (λ_k/λ_1 of the perceptron), k = 0, 1, …"""
        return (self.product / self.product[1]) / (self.perceptron / self.perceptron[1])

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        gains = self.gains[2:]
        return f"relative to frequency 1 the product network learns frequencies 2 to {len(gains) + 1} {gains.min():.2f} to {gains.max():.2f} times as fast; frequency 5 is halved after {self.halving[1]} steps instead of {self.halving[0]}."

    def to_frame(self) -> pd.DataFrame:
        """One row a frequency."""
        return pd.DataFrame({
            "frequency": np.arange(len(self.perceptron)), "perceptron": self.perceptron, "product": self.product,
            "perceptron, infinite": self.limits[0], "product, infinite": self.limits[1], "gain": self.gains,
        })  # fmt: skip

    def plot(self) -> go.Figure:
        """Eigenvalues relative to that of frequency 1."""
        chart = figure()
        for name, finite, limit, colour in (("perceptron", self.perceptron, self.limits[0], CATEGORICAL[0]), ("product", self.product, self.limits[1], CATEGORICAL[1])):  # fmt: skip
            chart.add_scatter(y=finite / finite[1], mode="markers", name=name, marker_color=colour)
            shown = np.where(limit > 1e-14, limit / limit[1], np.nan)
            chart.add_scatter(y=shown, mode="lines", name=f"{name}, infinite", line_color=colour)
        return chart.update_layout(xaxis_title="frequency", yaxis_title="λ / λ₁", yaxis_type="log", yaxis_dtick=1)


def spectral_bias(width: int = 4096, points: int = 64, most: int = 12, seed: int = 0) -> SpectralBias:
    """Empirical spectra of both networks and how long they take to learn frequency 5.

    Args:
        width: m.
        points: on the circle, more than twice `most`.
        most: highest frequency.
        seed: of the weights.
    """
    x = circle(points)
    angle = torch.arange(points, dtype=torch.float64) * 2 * pi / points
    waves = torch.stack([(k * angle).sin() for k in range(1, most + 1)])
    spectra, halving = [], []
    for kind in (Perceptron, Product):
        kernel = empirical_kernel(kind(width, seed), x, form="trace").values
        spectra.append(frequencies(kernel)[: most + 1])
        # linearized training of Σ sin(kθ) from f = 0 on the mean squared loss: r ← r − η Θ r / N, with η λ_max = 1
        residual, steps = waves.sum(0), 0
        step = kernel / torch.linalg.eigvalsh(kernel)[-1]
        while waves[4] @ residual > 0.5 * (waves[4] @ waves[4]) and steps < 100_000:
            residual, steps = residual - step @ residual, steps + 1
        halving.append(steps)
    limits = np.stack([infinite_spectrum(factors)[: most + 1] for factors in (1, 2)])
    return SpectralBias(spectra[0], spectra[1], limits, (halving[0], halving[1]))


class SpectralBiasOptions(Options):
    """Width, points on the circle, highest frequency."""

    width: int = Field(4096, ge=1)
    points: int = Field(64, ge=26)
    most: int = Field(12, ge=5)
    seed: int = 0


@analysis("spectral_bias", of="nothing", options=SpectralBiasOptions, tiny={"width": 256})
def spectral_bias_of_products(options: SpectralBiasOptions) -> SpectralBias:
    """How fast a product of two ReLU layers learns each frequency on the circle, beside a perceptron."""
    return spectral_bias(**options.model_dump())
