"""Residual networks and depth: which branch multiplier keeps features, learning rates and the diversity of layers.

"Tensor Programs VI: Feature Learning in Infinite-Depth Neural Networks" (Yang, Yu, Zhu and Hayou, 2023; row S071):

    x_l = x_{l−1} + L^{−α} MS(φ(W_l x_{l−1})),    Adam's rate η L^{−γ},    MS: subtraction of the mean over features.

α = γ = 1/2 (depth-μP) learns features and keeps layers different; with α = 1, γ = 0 (an ordinary differential equation)
neighbouring layers become the same; with α = 0 everything grows. Of a trained network the *diversity exponent* is the
slope of log ‖x_{l+k} − x_l‖ in log k: 1/2 where layers move like independent steps, 1 on a smooth path.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from analysis.analysis import Options, analysis
from analysis.theme import CATEGORICAL, styled

ROW = "S071"
SCALINGS = {"none": (0.0, 0.0), "depth_mup": (0.5, 0.5), "ode": (1.0, 0.0)}
"""Exponents (α, γ) of branch multiplier and Adam's rate."""
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "abs": torch.abs}
TAIL = 0.2  # share of the last steps that the final loss is averaged over


@dataclass(frozen=True)
class DepthScaling:
    """Runs of residual networks.

    Args:
        rows: one row a scaling, depth and rate: `scaling`, `depth`, `rate`, `loss` (of the last steps; infinite where
            training diverged), `size` (|x_L| at the start, root mean square), `first change` (of x_L by the first step),
            `diversity` (mean √L |x_l − x_{l−1}| after training), `exponent` (diversity exponent after training).
    """

    rows: pd.DataFrame

    def best(self, scaling: str) -> pd.Series:
        """The best rate at each depth."""
        part = self.rows[self.rows["scaling"] == scaling]
        return part.loc[part.groupby("depth")["loss"].idxmin()].set_index("depth")["rate"]

    def shift(self, scaling: str) -> float:
        """log2 of the largest best rate over the smallest; infinite if a depth diverges at all rates."""
        part = self.rows[self.rows["scaling"] == scaling]
        if np.isinf(part.groupby("depth")["loss"].min()).any():
            return float("inf")
        best = self.best(scaling)
        return float(np.log2(best.max() / best.min()))

    def at_lowest_rate(self, scaling: str) -> pd.DataFrame:
        """Rows by depth at the lowest rate."""
        part = self.rows[self.rows["scaling"] == scaling]
        return part[part["rate"] == part["rate"].min()].set_index("depth")

    def slope(self, scaling: str, column: str) -> float:
        """Slope of the logarithm of a column in that of depth, at the lowest rate."""
        part = self.at_lowest_rate(scaling)[column]
        return float(np.polyfit(np.log(part.index.to_numpy(float)), np.log(part.to_numpy(float)), 1)[0])

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        return "; ".join(
            f"{name}: |x_L| ∝ L^{self.slope(name, 'size'):.2f}, its first change ∝ L^{self.slope(name, 'first change'):.2f}, "
            f"diversity exponent {self.at_lowest_rate(name)['exponent'].iloc[-1]:.2f} at depth {self.rows['depth'].max()}, "
            f"best rates span a factor {2 ** self.shift(name):.3g}"
            for name in self.rows["scaling"].unique()
        )  # fmt: skip

    def to_frame(self) -> pd.DataFrame:
        """One row a scaling, depth and rate."""
        return self.rows

    def plot(self) -> go.Figure:
        """Loss over rate, one panel a scaling, one line a depth."""
        names = list(self.rows["scaling"].unique())
        drawing = make_subplots(1, len(names), subplot_titles=names, shared_yaxes=True, horizontal_spacing=0.04)
        for column, name in enumerate(names, start=1):
            part = self.rows[(self.rows["scaling"] == name) & np.isfinite(self.rows["loss"])]
            for colour, (depth, line) in zip(CATEGORICAL, part.groupby("depth"), strict=False):
                drawing.add_trace(
                    go.Scatter(
                        x=line["rate"], y=line["loss"], mode="lines+markers", name=f"depth {depth}", legendgroup=str(depth),
                        line_color=colour, showlegend=column == 1,
                    ), row=1, col=column,
                )  # fmt: skip
        drawing.update_xaxes(type="log", title_text="learning rate η", dtick="D2")
        drawing.update_yaxes(type="log")
        drawing.update_yaxes(title_text="training loss", row=1, col=1)
        return styled(drawing, height=400).update_layout(margin={"t": 72}, legend={"y": 1.12})


def stream(weights: Tensor, x: Tensor, multiplier: float, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """x_0, …, x_L.

    Args:
        weights: W `[L, n, n]`.
        x: x_0 `[N, n]`.
        multiplier: L^{−α}.
        activation: φ.

    Returns:
        `[L + 1, N, n]`.
    """
    found = [x]
    for weight in weights:
        moved = activation(found[-1] @ weight.T)
        found.append(found[-1] + multiplier * (moved - moved.mean(-1, keepdim=True)))
    return torch.stack(found)


def diversity_exponent(states: Tensor) -> float:
    """Slope of log mean ‖x_{l+k} − x_l‖ in log k, for k in powers of two up to L / 4 (the start is left out).

    Args:
        states: x_0, …, x_L, `[L + 1, N, n]`, L ≥ 8.
    """
    late = states[len(states) // 4 :]
    spans = [2**k for k in range(int(np.log2(len(states) // 4)) + 1)]
    moved = [float((late[k:] - late[:-k]).norm(dim=-1).mean()) for k in spans]
    return float(np.polyfit(np.log(spans), np.log(moved), 1)[0])


def run(
    depth: int, scaling: tuple[float, float], rate: float, steps: int, width: int = 64, samples: int = 64,
    activation: str = "relu", seed: int = 0,
) -> dict[str, float]:  # fmt: skip
    """Train one network with Adam on y = a fixed random linear map, sign-folded: y = |c · ξ|, and measure it.

    Args:
        depth: L.
        scaling: (α, γ).
        rate: η.
        steps: full batches.
        width: n.
        samples: N.
        activation: a name in `ACTIVATIONS`.
        seed: of weights and data.
    """
    draw = torch.Generator().manual_seed(seed)
    features = 8
    xi = torch.randn(samples, features, generator=draw)
    y = (xi @ torch.randn(features, generator=draw) / features**0.5).abs()
    x = xi @ torch.randn(features, width, generator=draw) / features**0.5
    read = torch.randn(width, generator=draw) / width  # the output of μP
    weights = (torch.randn(depth, width, width, generator=draw) / width**0.5).requires_grad_()
    alpha, gamma = scaling
    multiplier, phi = depth**-alpha, ACTIVATIONS[activation]
    optimizer = torch.optim.Adam([weights], lr=rate * depth**-gamma / width, eps=1e-12)
    losses: list[float] = []
    start = first = torch.zeros(0)
    for step in range(steps):
        states = stream(weights, x, multiplier, phi)
        if step == 0:
            start = states[-1].detach()
        elif step == 1:
            first = states[-1].detach() - start
        # outputs relative to the start, so that the loss begins at that of zero at every depth
        loss = ((states[-1] - start) @ read * width**0.5 - y).square().mean()
        losses.append(float(loss.detach()))
        if not np.isfinite(losses[-1]) or losses[-1] > 1e4 * losses[0]:
            losses += [float("inf")] * steps
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        states = stream(weights, x, multiplier, phi)
    size = float(start.square().mean().sqrt())
    steps_apart = states.diff(dim=0).square().mean((1, 2)).sqrt().mean() * depth**0.5
    return {
        "loss": float(np.mean(losses[-max(1, round(TAIL * steps)) :])), "size": size,
        "first change": float(first.square().mean().sqrt()) if len(first) else float("nan"),
        "diversity": float(steps_apart), "exponent": diversity_exponent(states),
    }  # fmt: skip


def measure(
    names: Sequence[str], depths: Sequence[int], rates: Sequence[float], steps: int, width: int = 64,
    activation: str = "relu", seed: int = 0,
) -> DepthScaling:  # fmt: skip
    """All scalings at all depths and rates.

    Args:
        names: in `SCALINGS`.
        depths: L, 8 or more.
        rates: η, rising.
        steps: of training.
        width: n.
        activation: a name in `ACTIVATIONS`.
        seed: of weights and data.
    """
    return DepthScaling(pd.DataFrame([
        {"scaling": name, "depth": depth, "rate": rate, **run(depth, SCALINGS[name], rate, steps, width, activation=activation, seed=seed)}
        for name in names for depth in depths for rate in rates
    ]))  # fmt: skip


class DepthScalingOptions(Options):
    """Depths (8 or more), learning rates, steps, width, and the activation."""

    depths: tuple[int, ...] = Field((8, 16, 32), min_length=2)
    rates: tuple[float, ...] = Field(tuple(2.0**k for k in range(-9, 3)), min_length=1)
    steps: int = Field(30, ge=2)
    width: int = Field(64, ge=2)
    activation: Literal["relu", "abs"] = "relu"
    seed: int = 0


@analysis(
    "depth_scaling", of="nothing", options=DepthScalingOptions,
    tiny={"depths": (8, 16), "rates": (0.5,), "steps": 3, "width": 8},
)  # fmt: skip
def depth_scaling(options: DepthScalingOptions) -> DepthScaling:
    """Sizes, first steps, diversity of layers and best learning rates of residual networks against depth."""
    return measure(tuple(SCALINGS), options.depths, options.rates, options.steps, options.width, options.activation, options.seed)  # fmt: skip
