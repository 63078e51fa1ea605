"""Training curves of one model beside those of its population."""

from dataclasses import dataclass
from math import ceil

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.theme import FOCUS, INK, styled
from analysis.weights import BAND, Array, add_band
from modelzoo.errors import UserError
from modelzoo.store import Population


@dataclass(frozen=True)
class Curve:
    """One metric at the steps where it was measured: `model [step]` and the population's `band [quantile, step]`."""

    metric: str
    steps: Array
    model: Array
    band: Array


@dataclass(frozen=True)
class TrainingCurves:
    """Every stored metric of a model over its steps, with the population's quantiles."""

    model: str
    curves: tuple[Curve, ...]
    marked: int | None = None

    def to_frame(self) -> pd.DataFrame:
        """One row a metric and step."""
        parts = [
            pd.DataFrame(
                {"metric": entry.metric, "step": entry.steps, "model": entry.model}
                | {f"population {level:g}": entry.band[place] for place, level in enumerate(BAND)}
            )
            for entry in self.curves
        ]
        return pd.concat(parts, ignore_index=True)

    def plot(self) -> go.Figure:
        """One panel a metric; a positive metric that spans more than two decades is drawn logarithmically."""
        per_row = min(len(self.curves), 2)
        rows = ceil(len(self.curves) / per_row)
        drawing = make_subplots(
            rows, per_row, subplot_titles=[entry.metric for entry in self.curves],
            horizontal_spacing=0.1, vertical_spacing=min(0.4 / rows, 0.22),
        )  # fmt: skip
        for place, entry in enumerate(self.curves):
            where = {"row": place // per_row + 1, "col": place % per_row + 1}
            add_band(drawing, entry.steps, entry.band, first=place == 0, where=where)
            drawing.add_trace(
                go.Scatter(
                    x=entry.steps, y=entry.model, mode="lines", line={"color": FOCUS, "width": 2}, name="this model",
                    legendgroup="model", showlegend=place == 0,
                    hovertemplate="step %{x}: %{y:.4g}<extra>this model</extra>",
                ), **where,
            )  # fmt: skip
            values = np.concatenate([entry.model, entry.band.ravel()])
            values = values[np.isfinite(values)]
            if values.size and values.min() > 0 and values.max() > 100 * values.min():
                drawing.update_yaxes(type="log", exponentformat="power", nticks=5, **where)
            if self.marked is not None:
                drawing.add_vline(x=self.marked, line={"color": INK, "width": 1, "dash": "dot"}, **where)
        drawing.update_xaxes(title_text="step")
        styled(drawing, height=70 + 220 * rows)
        return drawing.update_layout(legend_y=1 + 30 / (70 + 220 * rows), margin_t=64)


def training_curves(population: Population, row: int, checkpoint: int | None = None) -> TrainingCurves:
    """The metrics of a model over training, with the 5% to 95% band of its population.

    Args:
        population: the population.
        row: the model's position in the table.
        checkpoint: index of the checkpoint to mark, None for none.

    Raises:
        UserError: the population was stored without curves.
    """
    names = population.metric_names()
    steps = population.info.metric_steps
    if not names or not steps:
        raise UserError(f"population {population.name!r} has no training curves; populate with --metric-every to store them.")  # fmt: skip
    well = (population.table["status"] == "ok").to_numpy()
    found = []
    for name in names:
        values = population.metrics(name).astype(np.float64)
        measured = np.isfinite(values[well]).any(axis=0)
        band = np.nanquantile(values[well][:, measured], BAND, axis=0)
        found.append(Curve(name, np.asarray(steps, np.float64)[measured], values[row, measured], band))
    marked = None if checkpoint is None else population.info.checkpoint_steps[checkpoint]
    return TrainingCurves(f"{population.name}/{population.table.index[row]}", tuple(found), marked)
