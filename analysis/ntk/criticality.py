"""Criticality: for which weight variance signals and gradients neither die nor explode with depth.

"The Principles of Deep Learning Theory" (Roberts, Yaida and Hanin, 2022; row S046). The variance K of pre-activations goes
from layer to layer by K' = C_b + C_W ⟨φ²⟩_K; perturbations along and across a sample by the susceptibilities

    χ_∥ = C_W/(2K²) ⟨φ² (z² − K)⟩_K,    χ_⊥ = C_W ⟨φ'²⟩_K,

and criticality is χ_∥ = χ_⊥ = 1 at a fixed point K*. Near a fixed point differences shrink like exp(−layer / ξ) with the
correlation length ξ = −1/log χ. At finite width n fourth moments grow with depth: E|z|⁴ / (E|z|²)² is (1 + 2/n)^L for
linear and about (1 + 5/n)^L for ReLU networks, so depth is limited by L/n.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray
from plotly.subplots import make_subplots
from pydantic import Field
from scipy.optimize import brentq

from analysis.analysis import Options, analysis
from analysis.ntk.duals import DUALS
from analysis.theme import CATEGORICAL, styled
from modelzoo.errors import UnknownNameError

ROW = "S046"  # of the paper catalogue
ACTIVATIONS = {
    "relu": torch.relu, "identity": lambda x: x, "tanh": torch.tanh, "erf": torch.erf, "sin": torch.sin,
    "gelu": torch.nn.functional.gelu, "silu": torch.nn.functional.silu, "softplus": torch.nn.functional.softplus,
}  # fmt: skip


HALF_LINE, FAR = 160, 12.0  # nodes of the quadrature from 0 to that many standard deviations


@dataclass(frozen=True)
class Susceptibilities:
    """One layer at variance K: the next variance and both susceptibilities."""

    variance: float
    parallel: float
    perpendicular: float

    @property
    def lengths(self) -> tuple[float, float]:
        """Correlation lengths ξ in layers along and across (infinite at criticality, negative where they grow)."""
        found = [np.inf if abs(np.log(chi)) < 1e-12 else -1 / float(np.log(chi)) for chi in (self.parallel, self.perpendicular)]  # fmt: skip
        return found[0], found[1]


def susceptibilities(activation: str, variance: float, weight: float, bias: float = 0.0) -> Susceptibilities:
    """χ_∥ and χ_⊥ of a layer.

    Args:
        activation: φ, see `ACTIVATIONS`.
        variance: K.
        weight: C_W.
        bias: C_b.

    Raises:
        UserError: unknown activation.
    """
    if activation not in ACTIVATIONS:
        raise UnknownNameError("activation", activation, ACTIVATIONS)
    k = torch.tensor(variance, dtype=torch.float64)
    square, slope = (float(part) for part in DUALS[activation](k, k, k))
    # half the line at a time, so that a kink at 0 does no harm
    at, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(HALF_LINE))
    z = FAR / 2 * (at + 1)
    weights = weights * FAR / 2 * (-z.square() / 2).exp() / (2 * np.pi) ** 0.5
    values = sum(ACTIVATIONS[activation](sign * k.sqrt() * z).square() for sign in (1, -1))
    total = variance * float((values * (z.square() - 1)) @ weights)
    return Susceptibilities(bias + weight * square, weight * total / (2 * variance**2), weight * slope)


def critical_weight(activation: str, variance: float = 1.0) -> float:
    """C_W at which χ_⊥ = 1 for a given variance K (a fixed point for C_b = K − C_W ⟨φ²⟩)."""
    return 1 / susceptibilities(activation, variance, 1.0).perpendicular


def fixed_point(activation: str, weight: float, bias: float) -> float:
    """K* = C_b + C_W ⟨φ²⟩ between 1e-9 and 1e3; NaN where there is none."""

    def excess(log: float) -> float:
        k = float(np.exp(log))
        return susceptibilities(activation, k, weight, bias).variance / k - 1

    low, high = np.log(1e-9), np.log(1e3)
    return float(np.exp(brentq(excess, low, high))) if excess(low) * excess(high) < 0 else float("nan")


def sampled_norms(
    activation: str, width: int, depth: int, weight: float, networks: int, seed: int = 0
) -> NDArray[np.float64]:
    """|z|²/n of every layer of random fully connected networks without bias, `[depth, networks]`, |z|²/n = 1 at first.

    Given a layer, the next pre-activations are independent N(0, C_W |φ(z)|²/n): drawing them is drawing the weights.

    Args:
        activation: φ.
        width: n of every layer.
        depth: L.
        weight: C_W.
        networks: how many.
        seed: of them.
    """
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(networks, width, generator=draw, dtype=torch.float64)
    z = z / z.square().mean(1, keepdim=True).sqrt()
    found = []
    for layer in range(depth):
        carried = z if layer == 0 else ACTIVATIONS[activation](z)  # the first layer sees the input itself
        scale = ((weight if layer else 1.0) * carried.square().mean(1, keepdim=True)).sqrt()
        z = scale * torch.randn(networks, width, generator=draw, dtype=torch.float64)
        found.append(z.square().mean(1))
    return torch.stack(found).numpy()


@dataclass(frozen=True)
class Criticality:
    """Networks at several weight variances.

    Args:
        activation: φ.
        width: n.
        rows: one row a C_W and layer: `weight`, `layer`, `theory` (K by recursion), `variance` (mean of |z|²/n),
            `fourth moment` (E|z|⁴/(E|z|²)²), `log` (mean of log |z|²/n).
        susceptibilities: by C_W at K = 1.
    """

    activation: str
    width: int
    rows: pd.DataFrame
    susceptibilities: dict[float, Susceptibilities]

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        found = ", ".join(f"C_W = {w:g}: χ∥ {s.parallel:.4g}, χ⊥ {s.perpendicular:.4g}" for w, s in self.susceptibilities.items())  # fmt: skip
        return f"{self.activation} at K = 1: {found}; critical at C_W = {critical_weight(self.activation):.6g}."

    def to_frame(self) -> pd.DataFrame:
        """One row a weight variance and layer."""
        return self.rows

    def plot(self) -> go.Figure:
        """Variance and fourth moment over depth."""
        drawing = make_subplots(1, 2, subplot_titles=("variance of pre-activations", "E|z|⁴ / (E|z|²)²"), horizontal_spacing=0.12)  # fmt: skip
        for place, (weight, part) in enumerate(self.rows.groupby("weight")):
            colour = CATEGORICAL[place % len(CATEGORICAL)]
            for column, (name, dash, row) in enumerate((("variance", "solid", 1), ("theory", "dot", 1), ("fourth moment", "solid", 2))):  # fmt: skip
                drawing.add_trace(
                    go.Scatter(x=part["layer"], y=part[name], line={"color": colour, "dash": dash}, name=f"C_W = {weight:g}", showlegend=column == 0),
                    row=1, col=row,
                )  # fmt: skip
        drawing.update_yaxes(type="log")
        drawing.update_xaxes(title_text="layer")
        return styled(drawing, height=360).update_layout(legend_y=1.12, margin_t=80)


def criticality(
    activation: str, weights: Sequence[float], width: int = 50, depth: int = 10, networks: int = 4000, seed: int = 0
) -> Criticality:
    """Random networks at several C_W against the recursions.

    Args:
        activation: φ.
        weights: C_W.
        width: n.
        depth: L.
        networks: a C_W.
        seed: of the first.
    """
    rows = []
    for weight in weights:
        norms = sampled_norms(activation, width, depth, weight, networks, seed)
        theory = 1.0
        for layer, found in enumerate(norms, start=1):
            theory = theory if layer == 1 else susceptibilities(activation, theory, weight).variance
            rows.append({
                "weight": weight, "layer": layer, "theory": theory, "variance": float(found.mean()),
                "fourth moment": float((found**2).mean() / found.mean() ** 2), "log": float(np.log(found).mean()),
            })  # fmt: skip
    return Criticality(
        activation, width, pd.DataFrame(rows), {w: susceptibilities(activation, 1.0, w) for w in weights}
    )


class CriticalityOptions(Options):
    """Activation, weight variances (none: the critical one and 10% to both sides), width, depth, networks."""

    activation: str = "relu"
    weights: tuple[float, ...] = ()
    width: int = Field(50, ge=1)
    depth: int = Field(10, ge=1)
    networks: int = Field(4000, ge=2)
    seed: int = 0


@analysis("criticality", of="nothing", options=CriticalityOptions, tiny={"networks": 200, "depth": 4})
def criticality_by_depth(options: CriticalityOptions) -> Criticality:
    """Variance and fourth moment of pre-activations with depth, at, below and above the critical weight variance."""
    given = options.model_dump()
    middle = critical_weight(options.activation)
    return criticality(**{**given, "weights": options.weights or (0.9 * middle, middle, 1.1 * middle)})
