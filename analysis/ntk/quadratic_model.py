"""Catapults: gradient descent above the critical rate of a network, of its quadratic model, and of its linearization.

"Quadratic models for understanding neural network dynamics" (Zhu, Liu, Radhakrishnan and Belkin, 2022; row S077). With
λ₀ the largest eigenvalue of the tangent kernel, gradient descent converges monotonically for η λ₀ < 2; up to about
4 the loss of the network and of its quadratic model first rises (by a factor of the order of the width) while λ falls
below 2/η, then converges; the linearization diverges from 2 on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from pydantic import Field
from torch import Tensor

from analysis.analysis import Options, analysis
from analysis.ntk.taylor import Parameters, descend, taylor
from analysis.theme import CATEGORICAL, figure

ROW = "S077"  # of the paper catalogue
ORDERS = {"network": 0, "quadratic": 2, "linear": 1}


@dataclass(frozen=True)
class Catapults:
    """Runs of gradient descent.

    Args:
        runs: one row a run: `model`, `rate` (η λ₀), `seed`, `peak` (largest loss over the first), `last` (loss at the
            end), `eigenvalue ratio` (λ at the end over λ₀), `final rate` (η λ at the end), `diverged`.
        losses: mean over seeds of the logarithm of loss by (model, rate), over steps.
    """

    runs: pd.DataFrame
    losses: dict[tuple[str, float], np.ndarray]

    def to_frame(self) -> pd.DataFrame:
        """One row a model and rate: medians over the runs that converged."""
        rows = []
        for (model, rate), part in self.runs.groupby(["model", "rate"], sort=False):
            kept = part[~part["diverged"]]
            middle = kept[["peak", "last", "eigenvalue ratio", "final rate"]].median()
            rows.append({"model": model, "rate": rate, "diverged": part["diverged"].mean(), **middle.to_dict()})
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Loss over steps."""
        chart = figure()
        rates = sorted({rate for _, rate in self.losses})
        for (model, rate), losses in self.losses.items():
            dash = {"network": "solid", "quadratic": "dash", "linear": "dot"}[model]
            chart.add_scatter(
                y=np.exp(losses), name=f"{model}, η λ₀ = {rate:g}", mode="lines",
                line={"dash": dash, "color": CATEGORICAL[rates.index(rate) % len(CATEGORICAL)]},
            )  # fmt: skip
        return chart.update_layout(
            xaxis_title="step", yaxis_title="loss", yaxis_type="log", yaxis_exponentformat="power"
        )


def catapults(
    rates: Sequence[float], activation: Literal["relu", "linear"] = "relu", width: int = 200, samples: int = 8,
    features: int = 20, seeds: int = 5, steps: int = 200, orders: Sequence[str] = tuple(ORDERS),
    target_scale: float = 1.0, seed: int = 0,
) -> Catapults:  # fmt: skip
    """Train f(x) = Σ v_i φ(u_i · x) / √(m d), all weights N(0, 1), its quadratic model and its linearization.

    Args:
        rates: η λ₀.
        activation: φ.
        width: m.
        samples: N standard normal inputs with normal targets.
        features: d.
        seeds: networks a rate.
        steps: of gradient descent.
        target_scale: standard deviation of the targets; at 0 the spike is the purest.
        orders: which of `network`, `quadratic`, `linear`.
        seed: of the first network.
    """
    starts, inputs, targets = [], [], []
    for number in range(seeds):
        draw = torch.Generator().manual_seed(seed + number)
        starts.append({"u": torch.randn(width, features, generator=draw, dtype=torch.float64), "v": torch.randn(width, generator=draw, dtype=torch.float64)})  # fmt: skip
        inputs.append(torch.randn(samples, features, generator=draw, dtype=torch.float64))
        targets.append(target_scale * torch.randn(samples, generator=draw, dtype=torch.float64))
    count = len(rates) * seeds
    center = {name: torch.stack([start[name] for start in starts]).repeat(len(rates), *[1] * starts[0][name].ndim) for name in ("u", "v")}  # fmt: skip
    center["x"] = torch.stack(inputs).repeat(len(rates), 1, 1)  # rides along, not trained
    asked = torch.tensor(rates, dtype=torch.float64).repeat_interleave(seeds)

    def network(parameters: Parameters, x: Tensor) -> Tensor:
        h = x @ parameters["u"].T
        h = h.relu() if activation == "relu" else h
        return h @ parameters["v"] / (width * features) ** 0.5

    rows, curves = [], {}
    for name in orders:

        def model(own: Parameters, start: Parameters, order: int = ORDERS[name]) -> Tensor:
            trained = {key: own[key] for key in ("u", "v")}
            fixed = {key: start[key] for key in ("u", "v")}
            return taylor(lambda w: network(w, start["x"]), fixed, order)(trained)

        found = descend(model, center, torch.stack(targets).repeat(len(rates), 1), asked, steps)
        diverged = found.after.isnan()
        peaks = (found.losses / found.losses[0]).amax(0)
        for run in range(count):
            ratio = float(found.after[run] / found.before[run])
            rows.append({
                "model": name, "rate": float(asked[run]), "seed": seed + run % seeds, "peak": float(peaks[run]),
                "last": float(found.losses[-1, run]), "eigenvalue ratio": ratio,
                "final rate": float(asked[run]) * ratio, "diverged": bool(diverged[run]),
            })  # fmt: skip
        for place, rate in enumerate(rates):
            part = found.losses[:, place * seeds : (place + 1) * seeds].log().mean(1)
            curves[name, float(rate)] = torch.where(part.isfinite(), part, torch.nan).numpy()
    return Catapults(pd.DataFrame(rows), curves)


class QuadraticModelOptions(Options):
    """Rates η λ₀, activation (`relu` or `linear`), sizes, networks a rate, and steps."""

    rates: tuple[float, ...] = (1.0, 2.5, 3.5, 4.5)
    activation: Literal["relu", "linear"] = "relu"
    width: int = Field(200, ge=1)
    samples: int = Field(8, ge=1)
    features: int = Field(20, ge=1)
    seeds: int = Field(5, ge=1)
    steps: int = Field(200, ge=2)
    target_scale: float = Field(1.0, ge=0)
    seed: int = 0


@analysis("quadratic_model", of="nothing", options=QuadraticModelOptions, tiny={"rates": (1.0, 2.5), "width": 20, "seeds": 2, "steps": 12})  # fmt: skip
def quadratic_model(options: QuadraticModelOptions) -> Catapults:
    """Gradient descent above its critical rate: a network, its quadratic model and its linearization."""
    return catapults(**options.model_dump())
