"""Orthogonal against Gaussian weights: how fluctuations between networks grow with depth.

"Feature Learning and Generalization in Deep Networks with Orthogonal Weights" (Day, Kahn and Roberts, 2023; row S146). In
fully connected tanh networks of width n the relative variance of |z|²/n between networks grows like depth / n for Gaussian
weights of variance 1/n, and stays bounded for weights drawn uniformly from the orthogonal group; so does that of the
tangent kernel. Deep orthogonal networks train where Gaussian ones of the same width do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from pydantic import Field
from torch import Tensor

from analysis.analysis import Options, analysis
from analysis.theme import CATEGORICAL, styled

ROW = "S146"  # of the paper catalogue
Weights = Literal["gaussian", "orthogonal"]


def draw_weights(kind: Weights, networks: int, width: int, generator: torch.Generator) -> Tensor:
    """One matrix a network, `[networks, n, n]`: entries N(0, 1/n), or uniform on the orthogonal group."""
    gaussian = torch.randn(networks, width, width, generator=generator, dtype=torch.float64)
    if kind == "gaussian":
        return gaussian / width**0.5
    q, r = torch.linalg.qr(gaussian)
    return q * r.diagonal(dim1=1, dim2=2).sign()[:, None]  # without the signs it is not uniform


@dataclass(frozen=True)
class DepthFluctuations:
    """Fluctuations between networks.

    Args:
        rows: one row a kind of weights, activation and depth: `signal` is n Var(|z|²/n) / E(|z|²/n)², `kernel` the same of
            the tangent kernel Θ(x, x) of the first unit.
        width: n.
    """

    rows: pd.DataFrame
    width: int

    def to_frame(self) -> pd.DataFrame:
        """One row a kind, activation and depth."""
        return self.rows

    def plot(self) -> go.Figure:
        """Both fluctuations over depth."""
        drawing = make_subplots(
            1, 2, subplot_titles=("n · relative variance of |z|²", "n · relative variance of Θ(x, x)")
        )
        for place, ((kind, activation), part) in enumerate(self.rows.groupby(["weights", "activation"])):
            for column, name in enumerate(("signal", "kernel"), start=1):
                drawing.add_trace(
                    go.Scatter(
                        x=part["depth"], y=part[name], error_y={"array": part[f"{name}_error"]}, name=f"{kind}, {activation}", showlegend=column == 1,
                        line={"color": CATEGORICAL[place]}, mode="lines+markers",
                    ), row=1, col=column,
                )  # fmt: skip
        drawing.update_xaxes(title_text="depth")
        return styled(drawing, height=360).update_layout(legend_y=1.12, margin_t=80)


def relative_variance(values: Tensor, draws: int = 200, seed: int = 0) -> tuple[float, float]:
    """Var v / (E v)² of a sample and its standard error by the bootstrap (variances of heavy tails are known badly).

    Args:
        values: v `[networks]`.
        draws: samples with replacement.
        seed: of these.
    """
    count = len(values)
    drawn = values[torch.randint(count, (draws, count), generator=torch.Generator().manual_seed(seed))]
    found = drawn.var(1) / drawn.mean(1).square()
    return float(values.var() / values.mean().square()), float(found.std())


def depth_fluctuations(
    depths: Sequence[int], width: int = 30, networks: int = 600, activations: Sequence[str] = ("tanh", "linear"),
    variance: float = 1.0, seed: int = 0,
) -> DepthFluctuations:  # fmt: skip
    """Relative variances between random networks without bias.

    Args:
        depths: at which to look.
        width: n of every layer and of the input.
        networks: in the ensemble.
        activations: `tanh` or `linear`.
        variance: |x|²/n of the input; for tanh the fluctuations of the first layers depend on it.
        seed: of input and weights.
    """
    rows = []
    for kind in ("gaussian", "orthogonal"):
        for activation in activations:
            draw = torch.Generator().manual_seed(seed)
            x = torch.randn(width, generator=draw, dtype=torch.float64)
            h = (x * (variance / x.square().mean()).sqrt()).expand(networks, width)
            theta = torch.zeros(networks, width, width, dtype=torch.float64)
            for depth in range(1, max(depths) + 1):
                w = draw_weights(kind, networks, width, draw)
                # Θ_l = |h|²/n · 1 + W D Θ_{l-1} D Wᵀ, with D the slopes of the activation
                theta = w @ theta @ w.mT
                theta.diagonal(dim1=1, dim2=2).add_(h.square().mean(1, keepdim=True))
                z = (w @ h[..., None])[..., 0]
                if depth in depths:
                    row: dict[str, str | float] = {"weights": kind, "activation": activation, "depth": depth}
                    for name, values in (("signal", z.square().mean(1)), ("kernel", theta[:, 0, 0])):
                        row[name], row[f"{name}_error"] = (width * value for value in relative_variance(values))
                    rows.append(row)
                h, slope = (z.tanh(), 1 - z.tanh().square()) if activation == "tanh" else (z, torch.ones_like(z))
                theta = slope[:, :, None] * theta * slope[:, None]
    return DepthFluctuations(pd.DataFrame(rows), width)


def trained_losses(
    kind: Weights,
    width: int = 30,
    depth: int = 30,
    networks: int = 5,
    steps: int = 300,
    rate: float = 0.1,
    seed: int = 0,
) -> Tensor:
    """Full-batch gradient descent of deep tanh networks on a smooth function of 32 random inputs; loss `[steps, networks]`.

    Args:
        kind: of the initial weights.
        width: n.
        depth: hidden layers.
        networks: trained in lock-step.
        steps: of gradient descent.
        rate: learning rate.
        seed: of data and weights.
    """
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(32, width, generator=draw, dtype=torch.float64)
    y = x[:, 0].sin() + 0.5 * x[:, 1]
    layers = torch.stack([draw_weights(kind, networks, width, draw) for _ in range(depth)]).requires_grad_()
    head = (torch.randn(networks, width, 1, generator=draw, dtype=torch.float64) / width**0.5).requires_grad_()
    losses = []
    for _ in range(steps):
        h = x.expand(networks, -1, -1)
        for w in layers:
            h = torch.tanh(h @ w)
        loss = ((h @ head)[..., 0] - y).square().mean(1) / 2
        losses.append(loss.detach())
        grads = torch.autograd.grad(loss.sum(), (layers, head))
        with torch.no_grad():
            for parameter, slope in zip((layers, head), grads, strict=True):
                parameter -= rate * slope
    return torch.stack(losses)


class OrthogonalDepthOptions(Options):
    """Depths to look at, width, networks in an ensemble, and |x|²/n of the input."""

    depths: tuple[int, ...] = (1, 2, 5, 10, 20, 30, 40)
    width: int = Field(30, ge=2)
    networks: int = Field(600, ge=2)
    variance: float = Field(1.0, gt=0)
    seed: int = 0


@analysis("orthogonal_depth", of="nothing", options=OrthogonalDepthOptions, tiny={"depths": (1, 4), "networks": 50, "width": 8})  # fmt: skip
def orthogonal_depth(options: OrthogonalDepthOptions) -> DepthFluctuations:
    """How signal and tangent kernel fluctuate between networks as they get deeper: Gaussian and orthogonal weights."""
    return depth_fluctuations(
        options.depths, options.width, options.networks, variance=options.variance, seed=options.seed
    )
