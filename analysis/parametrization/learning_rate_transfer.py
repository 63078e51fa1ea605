"""Learning-rate transfer: training loss against learning rate at several widths, and how far the best rate moves.

In μP the best rate is the same at every width, in the standard parametrization it falls with width. "Tensor Programs V:
Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer" (Yang et al., 2022).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from analysis.analysis import analysis
from analysis.parametrization.abc_parametrization import check_scores, parametrize
from analysis.parametrization.coordinate_check import Loss, WidthOptions, losses_of, train
from analysis.parametrization.schemes import Scheme, scheme
from analysis.parametrization.widths import base_tensors
from analysis.theme import CATEGORICAL, figure
from graphs.program import trace
from graphs.subjects import Subject

ROW = "S030"
TAIL = 0.2  # share of the last steps that the final loss is averaged over


@dataclass(frozen=True)
class LearningRateTransfer:
    """Final training losses.

    Args:
        scheme: the parametrization.
        widths: `[width]` relative to the narrowest.
        rates: `[rate]` η, rising.
        losses: `[width, rate]`, mean over the last steps and over seeds; infinite where training diverged.
    """

    scheme: Scheme
    widths: NDArray[np.float64]
    rates: NDArray[np.float64]
    losses: NDArray[np.float64]

    @property
    def best(self) -> NDArray[np.float64]:
        """`[width]` the rate with the lowest loss."""
        return self.rates[self.losses.argmin(1)]

    @property
    def shift(self) -> float:
        """log2 of the largest best rate over the smallest."""
        return float(np.log2(self.best.max() / self.best.min()))

    @property
    def regret(self) -> float:
        """By how much the widest member's loss is higher at the narrowest's best rate than at its own."""
        return float(self.losses[-1, self.losses[0].argmin()] - self.losses[-1].min())

    @property
    def sentence(self) -> str:
        """How far the best rate moves."""
        best = ", ".join(f"{rate:.2g} at × {width:g}" for rate, width in zip(self.best, self.widths, strict=True))
        return (
            f"{self.scheme.name} with {self.scheme.optimizer}: best rates {best}; they span a factor "
            f"{2**self.shift:.3g}; the narrowest's costs the widest {self.regret:.3g} of loss"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a width and rate."""
        return pd.DataFrame([
            {"width": float(width), "rate": float(rate), "loss": float(self.losses[k, i])}
            for k, width in enumerate(self.widths) for i, rate in enumerate(self.rates)
        ])  # fmt: skip

    def plot(self) -> go.Figure:
        """Loss over rate, one line a width; a ring marks the best."""
        chart = figure()
        for k, width in enumerate(self.widths):
            colour, finite = CATEGORICAL[k % len(CATEGORICAL)], np.isfinite(self.losses[k])
            chart.add_scatter(
                x=self.rates[finite], y=self.losses[k, finite], mode="lines+markers", name=f"× {width:g}",
                line={"color": colour}, hovertemplate="η = %{x:.3g}: loss %{y:.4g}<extra></extra>",
            )  # fmt: skip
            chart.add_scatter(
                x=[self.best[k]], y=[self.losses[k].min()], mode="markers", showlegend=False, hoverinfo="skip",
                marker={"symbol": "circle-open", "size": 13, "color": colour, "line": {"width": 2}},
            )  # fmt: skip
        return chart.update_layout(xaxis_title="learning rate η", yaxis_title="training loss", xaxis_type="log", yaxis_type="log")  # fmt: skip


def transfer(
    build: Callable[[int, int], nn.Module], inputs: Sequence[Tensor], losses: Callable[[int], Iterator[Loss]], chosen: Scheme,
    factors: Sequence[int], rates: Sequence[float], steps: int, seeds: int = 1,
) -> LearningRateTransfer:  # fmt: skip
    """Train members of several widths with several learning rates.

    Args:
        build: `(factor, seed) -> module`.
        inputs: example inputs of one call.
        losses: `(seed) -> losses`, one a step, the same for all widths and rates.
        chosen: the parametrization.
        factors: widths relative to the narrowest, which is the base.
        rates: η, rising.
        steps: of training.
        seeds: members of every width and rate.
    """
    shapes, narrow = base_tensors(build(factors[0], 0)), trace(build(factors[0], 0), inputs)
    found = np.zeros((len(factors), len(rates), seeds))
    for k, factor in enumerate(factors):
        program = narrow if factor == factors[0] else trace(build(factor, 0), inputs)
        if chosen.learns_features:
            check_scores(narrow, program, chosen)
        for seed in range(seeds):
            start = build(factor, seed)
            for i, rate in enumerate(rates):
                made = parametrize(start, inputs, chosen, shapes, program=program)
                curve = train(made, losses(seed), steps, rate)
                found[k, i, seed] = np.mean(curve[-max(1, round(TAIL * steps)) :])
    found[~np.isfinite(found)] = np.inf
    return LearningRateTransfer(chosen, np.asarray(factors, float), np.asarray(rates, float), found.mean(-1))


class LearningRateTransferOptions(WidthOptions):
    """See `WidthOptions`; rates from `lowest` to `highest` in factors of `factor`, for `steps` of training."""

    steps: int = Field(100, ge=2)
    lowest: float = Field(2**-12, gt=0)
    highest: float = Field(2**-1, gt=0)
    factor: float = Field(2.0, gt=1)

    @property
    def rates(self) -> list[float]:
        """The rates."""
        count = int(np.floor(np.log(self.highest / self.lowest) / np.log(self.factor) + 1e-9)) + 1
        return [self.lowest * self.factor**k for k in range(max(1, count))]


@analysis(
    "learning_rate_transfer", of="module", options=LearningRateTransferOptions,
    tiny={"factors": (1, 4), "fields": ("hidden",), "seeds": 1, "steps": 10, "lowest": 0.01, "highest": 0.1, "factor": 3},
)  # fmt: skip
def learning_rate_transfer(subject: Subject, options: LearningRateTransferOptions) -> LearningRateTransfer:
    """Training loss against learning rate at several widths: in μP the best rate stays where it is."""
    wide = options.widen(subject)
    return transfer(
        wide.build, wide.inputs(2), lambda seed: losses_of(wide.task, options.batch, seed),
        scheme(options.scheme, options.optimizer), options.factors, options.rates, options.steps, options.seeds,
    )  # fmt: skip
