"""Trajectories of training in the plane in which they vary most.

The weights θ of several models at all their checkpoints are projected on the principal axes of the whole cloud, as in
"Visualizing the Loss Landscape of Neural Nets" (Li, Xu, Taylor, Studer and Goldstein, 2018). One symmetry may be taken
out first: every model's end is aligned with the end of the first one, and its whole trajectory is moved by that element.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from pydantic import Field

from analysis.analysis import Options, analysis
from analysis.symmetry.universe import several
from analysis.symmetry.weight_matching import Matching
from analysis.theme import CATEGORICAL, figure
from graphs.interpreter import widen
from graphs.symmetry import symmetry
from modelzoo.store import Population


@dataclass(frozen=True)
class PcaTrajectories:
    """Projected trajectories.

    Args:
        names: of the models.
        steps: `[checkpoint]` of training.
        points: `[model, checkpoint, component]`.
        shares: `[component]` of the variance.
        aligned: whether symmetry was taken out.
    """

    names: tuple[str, ...]
    steps: NDArray[np.int64]
    points: NDArray[np.float64]
    shares: NDArray[np.float64]
    aligned: bool

    @property
    def sentence(self) -> str:
        """How flat the trajectories are, in one sentence."""
        aligned = " after alignment" if self.aligned else ""
        return f"the first two directions hold {self.shares[:2].sum():.1%} of the variance of {len(self.names)} trajectories of {len(self.steps)} checkpoints{aligned}."

    def to_frame(self) -> pd.DataFrame:
        """One row a model and checkpoint."""
        rows = [
            {"model": name, "step": int(step), **{f"component {k + 1}": value for k, value in enumerate(self.points[m, c])}}
            for m, name in enumerate(self.names) for c, step in enumerate(self.steps)
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """The first two components, one line a model; a ring marks the start."""
        chart = figure(height=460)
        second = self.points[..., 1] if self.points.shape[2] > 1 else np.zeros(self.points.shape[:2])
        for m, name in enumerate(self.names):
            colour = CATEGORICAL[m % len(CATEGORICAL)]
            chart.add_scatter(
                x=self.points[m, :, 0], y=second[m], mode="lines+markers", name=f"model {name}", line_color=colour,
                customdata=self.steps, hovertemplate="step %{customdata}<extra>%{fullData.name}</extra>",
            )  # fmt: skip
            chart.add_scatter(
                x=self.points[m, :1, 0], y=second[m, :1], mode="markers", showlegend=False, hoverinfo="skip",
                marker={"symbol": "circle-open", "size": 12, "color": colour, "line": {"width": 2}},
            )  # fmt: skip
        titles = [f"component {k + 1} ({share:.0%})" for k, share in enumerate(self.shares[:2])] + [""]
        return chart.update_layout(xaxis_title=titles[0], yaxis_title=titles[1])


def project(weights: NDArray[np.float64], count: int = 2) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Principal components of trajectories.

    Args:
        weights: `[model, checkpoint, parameter]`.
        count: components at most.

    Returns:
        Points `[model, checkpoint, component]` and the components' shares of the variance.
    """
    flat = weights.reshape(-1, weights.shape[-1])
    centred = flat - flat.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    count = min(count, len(values))
    total = float((values**2).sum()) or 1.0
    return (left[:, :count] * values[:count]).reshape(*weights.shape[:2], count), values[:count] ** 2 / total


def trajectories(population: Population, rows: Sequence[int], names: Sequence[str], aligned: bool, seed: int = 0) -> PcaTrajectories:  # fmt: skip
    """The trajectories of some models of a population.

    Args:
        population: with checkpoints.
        rows: of the models.
        names: of the models.
        aligned: take out symmetry first.
        seed: of the alignment.
    """
    steps = np.asarray(population.info.checkpoint_steps)
    parameters = population.stacked(list(rows), -1)
    states = [population.stacked(list(rows), place, "state") for place in range(len(steps))]
    matching = None
    if aligned and len(rows) > 1:
        group = symmetry(population.template(), population.example_inputs(), verify=False)
        matching = Matching(group, {name: value[0] for name, value in states[-1].items()})
    curves = []
    for m in range(len(rows)):
        path = [{name: widen(value[m]) for name, value in state.items()} for state in states]
        if matching is not None and m:
            element = matching.align(path[-1], seed).element
            path = [{**point, **element.apply(point)} for point in path]
        curves.append([np.concatenate([_real(point[name].numpy()) for name in parameters]) for point in path])
    points, shares = project(np.array(curves))
    return PcaTrajectories(tuple(names), steps, points, shares, aligned)


def _real(value: NDArray[np.generic]) -> NDArray[np.float64]:
    """A tensor as one row of real numbers."""
    flat = value.ravel()
    return np.concatenate([flat.real, flat.imag]) if np.iscomplexobj(flat) else flat.astype(np.float64)


class PcaTrajectoriesOptions(Options):
    """Models by id (without them the first `most`), and whether symmetry is taken out."""

    models: tuple[int, ...] = ()
    most: int = Field(8, ge=1)
    aligned: bool = True
    seed: int = 0


@analysis("pca_trajectories", of="population", options=PcaTrajectoriesOptions, tiny={"most": 2})
def pca_trajectories(population: Population, options: PcaTrajectoriesOptions) -> PcaTrajectories:
    """Training trajectories of models on the principal axes of their weights, symmetry taken out."""
    rows, names = several(population, options.models, options.most, 1)
    return trajectories(population, rows, names, options.aligned, options.seed)
