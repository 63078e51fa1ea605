"""One model's weights beside those of its population: histograms and statistics, tensor by tensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray
from plotly.subplots import make_subplots
from torch import Tensor

from analysis.theme import DIVERGING, FOCUS, REFERENCE, styled, translucent
from modelzoo.errors import UnknownNameError
from modelzoo.store import Population

Array = NDArray[np.floating[Any]]

BAND = (0.05, 0.5, 0.95)  # quantiles over the population that are drawn around a model
SAMPLE = 512  # models at most that a population is represented by
SAMPLE_SCALARS = 20_000_000  # and scalars at most that are read for it


def sample_rows(population: Population, scalars: int, limit: int = SAMPLE) -> NDArray[np.intp]:
    """Rows that stand for the population: models that did not diverge, drawn with a fixed seed when there are many.

    Args:
        population: the population.
        scalars: numbers read per model.
        limit: most models wanted.
    """
    rows = np.flatnonzero((population.table["status"] == "ok").to_numpy())
    allowed = max(8, min(limit, SAMPLE_SCALARS // max(scalars, 1)))
    if len(rows) > allowed:
        rows = np.sort(np.random.default_rng(0).choice(rows, allowed, replace=False))
    return rows


def chosen_tensors(population: Population, names: Sequence[str] | None) -> list[str]:
    """The names themselves, or those of all parameters; raises `UserError` for a name that is no parameter's."""
    known = [info.name for info in population.info.parameters]
    for name in names or ():
        if name not in known:
            raise UnknownNameError(f"parameter of {population.name}", name, known)
    return list(names) if names is not None else known


def scalars_of(population: Population, names: Sequence[str]) -> int:
    """How many numbers one model has in these tensors."""
    return sum(int(np.prod(info.shape)) for info in population.info.parameters if info.name in names)


def real(values: Tensor) -> Tensor:
    """Complex entries as pairs of real ones along a new last dimension; real tensors unchanged."""
    return torch.view_as_real(values) if values.is_complex() else values


@dataclass(frozen=True)
class Histogram:
    """Densities of one tensor's entries: `edges [bin + 1]`, `model [bin]`, `band [quantile, bin]` at `BAND`."""

    tensor: str
    edges: Array
    model: Array
    band: Array


@dataclass(frozen=True)
class WeightHistograms:
    """Histograms of a model's tensors over those of a sample of its population."""

    model: str
    sample: int
    population: int
    histograms: tuple[Histogram, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row a bin."""
        parts = [
            pd.DataFrame(
                {"tensor": entry.tensor, "low": entry.edges[:-1], "high": entry.edges[1:], "model": entry.model}
                | {f"population {level:g}": entry.band[place] for place, level in enumerate(BAND)}
            )
            for entry in self.histograms
        ]
        return pd.concat(parts, ignore_index=True)

    def plot(self) -> go.Figure:
        """Small multiples: the model's histogram as a line, the population as a band."""
        per_row = min(len(self.histograms), 3)
        rows = ceil(len(self.histograms) / per_row)
        drawing = make_subplots(
            rows, per_row, subplot_titles=[entry.tensor for entry in self.histograms],
            horizontal_spacing=0.06, vertical_spacing=min(0.35 / rows, 0.2),
        )  # fmt: skip
        for place, entry in enumerate(self.histograms):
            where = {"row": place // per_row + 1, "col": place % per_row + 1}
            middle = (entry.edges[1:] + entry.edges[:-1]) / 2
            add_band(drawing, middle, entry.band, first=place == 0, where=where)
            drawing.add_trace(
                go.Scatter(
                    x=middle, y=entry.model, mode="lines", line={"color": FOCUS, "width": 2, "shape": "hvh"},
                    name="this model", legendgroup="model", showlegend=place == 0,
                    hovertemplate="%{x:.3g}: density %{y:.3g}<extra>this model</extra>",
                ), **where,
            )  # fmt: skip
        drawing.update_yaxes(showticklabels=False, rangemode="tozero")
        styled(drawing, height=60 + 190 * rows)
        drawing.update_layout(legend_y=1 + 34 / (60 + 190 * rows), margin_t=64)
        return drawing


def add_band(
    drawing: go.Figure, x: Array, band: Array, first: bool = True, where: dict[str, int] | None = None
) -> None:
    """Draw a population's quantile band `[3, x]` and its median."""
    place = where or {}
    fill = translucent(REFERENCE, 0.32)
    common = {"mode": "lines", "hoverinfo": "skip"}
    drawing.add_trace(
        go.Scatter(x=x, y=band[0], line={"width": 0}, showlegend=False, legendgroup="band", **common), **place
    )
    drawing.add_trace(
        go.Scatter(
            x=x, y=band[2], line={"width": 0}, fill="tonexty", fillcolor=fill, showlegend=first,
            name=f"population, {BAND[0]:.0%} to {BAND[2]:.0%}", legendgroup="band", **common,
        ), **place,
    )  # fmt: skip
    drawing.add_trace(
        go.Scatter(
            x=x, y=band[1], line={"color": REFERENCE, "width": 1.5, "dash": "dot"}, showlegend=first,
            name="population median", legendgroup="median", **common,
        ), **place,
    )  # fmt: skip


def densities(values: Array, edges: Array) -> Array:
    """One normalised histogram a row; values beyond the ends count in the end bins.

    Args:
        values: `[model, entry]`.
        edges: `[bin + 1]`, increasing.

    Returns:
        Densities `[model, bin]`, each integrating to 1.
    """
    models, entries = values.shape
    bins = len(edges) - 1
    index = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bins - 1)
    index += np.arange(models)[:, None] * bins
    counts = np.bincount(index.ravel(), minlength=models * bins).reshape(models, bins)
    return counts / (entries * np.diff(edges))


def weight_histograms(
    population: Population, row: int, checkpoint: int = -1, tensors: Sequence[str] | None = None, bins: int = 40
) -> WeightHistograms:
    """The histogram of every tensor of a model over the band of its population's histograms.

    Args:
        population: the population.
        row: the model's position in the table.
        checkpoint: index into the stored checkpoints.
        tensors: names of the parameters to show, None for all.
        bins: number of bins, spanning the 0.1% to 99.9% quantiles of population and model.
    """
    names = chosen_tensors(population, tensors)
    rows = sample_rows(population, scalars_of(population, names))
    reference, own = population.stacked(rows, checkpoint), population.stacked(slice(row, row + 1), checkpoint)
    found = []
    for name in names:
        others, mine = (real(part[name]).flatten(1).double().numpy() for part in (reference, own))
        mine = mine[:, np.isfinite(mine[0])]
        pooled = np.concatenate([others.ravel(), mine.ravel()])
        low, high = np.quantile(pooled, (0.001, 0.999)) if pooled.size else (0.0, 0.0)
        pad = 0.0 if high > low else max(abs(low), 1.0) * 0.5
        edges = np.linspace(low - pad, high + pad, bins + 1)
        band = np.quantile(densities(others, edges), BAND, axis=0) if len(rows) else np.full((3, bins), np.nan)
        found.append(Histogram(name, edges, densities(mine, edges)[0] if mine.size else np.zeros(bins), band))
    return WeightHistograms(
        f"{population.name}/{population.table.index[row]}", len(rows), len(population), tuple(found)
    )


STATISTICS = ("mean", "std", "largest", "norm", "kurtosis")


@dataclass(frozen=True)
class WeightStatistics:
    """Statistics of a model's tensors and where they stand in the population.

    Args:
        model: `population/id`.
        sample: models the population is represented by.
        tensors: names `[tensor]`.
        values: `[tensor, statistic]`, in the order of `STATISTICS`.
        shares: `[tensor, statistic]`, the share of the population below, ties counted half.
    """

    model: str
    sample: int
    tensors: tuple[str, ...]
    values: Array
    shares: Array

    def to_frame(self) -> pd.DataFrame:
        """One row a tensor and statistic."""
        index = pd.MultiIndex.from_product([self.tensors, STATISTICS], names=["tensor", "statistic"])
        return pd.DataFrame(
            {"value": self.values.ravel(), "share below": self.shares.ravel()}, index=index
        ).reset_index()

    def plot(self) -> go.Figure:
        """A table of values, coloured by the place in the population: blue low, red high."""
        drawing = go.Figure(
            go.Heatmap(
                z=self.shares, x=list(STATISTICS), y=list(self.tensors), zmin=0, zmax=1, colorscale=DIVERGING,
                text=[[f"{value:.3g}" for value in line] for line in self.values], texttemplate="%{text}",
                textfont={"size": 11}, xgap=2, ygap=2,
                hovertemplate="%{y}: %{x} = %{text}<br>above %{z:.0%} of the population<extra></extra>",
                colorbar={"thickness": 10, "tickformat": ".0%", "outlinewidth": 0, "title": {"text": "above", "side": "top"}},
            )
        )  # fmt: skip
        drawing.update_yaxes(autorange="reversed", showgrid=False, ticks="")
        drawing.update_xaxes(side="top", showgrid=False, ticks="")
        styled(drawing, height=70 + 30 * len(self.tensors))
        return drawing.update_layout(margin={"t": 40, "b": 10})


def tensor_statistics(values: Tensor) -> Tensor:
    """Mean, standard deviation, largest size, Euclidean norm and kurtosis of each model's entries.

    Args:
        values: `[model, *shape]`.

    Returns:
        `[model, 5]` in the order of `STATISTICS`; the kurtosis of a constant tensor is 0.
    """
    flat = real(values).flatten(1).double()
    mean, spread = flat.mean(1), flat.std(1, correction=0)
    fourth = (flat - mean[:, None]).pow(4).mean(1)
    kurtosis = torch.where(spread > 0, fourth / spread.pow(4), 0.0)
    return torch.stack([mean, spread, flat.abs().amax(1), flat.norm(dim=1), kurtosis], dim=1)


def weight_statistics(
    population: Population, row: int, checkpoint: int = -1, tensors: Sequence[str] | None = None
) -> WeightStatistics:
    """Statistics of every tensor of a model, and the share of the population that lies below each."""
    names = chosen_tensors(population, tensors)
    rows = sample_rows(population, scalars_of(population, names))
    reference, own = population.stacked(rows, checkpoint), population.stacked(slice(row, row + 1), checkpoint)
    values = np.stack([tensor_statistics(own[name])[0].numpy() for name in names])
    others = np.stack([tensor_statistics(reference[name]).numpy() for name in names])  # [tensor, model, statistic]
    below, equal = others < values[:, None], others == values[:, None]
    shares = below.mean(1) + equal.mean(1) / 2
    return WeightStatistics(f"{population.name}/{population.table.index[row]}", len(rows), tuple(names), values, shares)
