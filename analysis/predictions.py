"""What a metanet predicts about models, beside what is true."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.theme import CATEGORICAL, REFERENCE, TARGET, figure
from metanets.runs import Run

SPLITS = ("train", "validation", "test")
MOST_WRITTEN = 20  # classes up to which the numbers are written into the cells
MOST_POINTS = 5_000


@dataclass(frozen=True)
class Predictions:
    """Targets and predictions of one split.

    Args:
        frame: columns target, prediction, split, indexed by model (`population/id`).
        target: the column of the model table that is predicted.
        classes: the classes in order, empty for a regression.
        metrics: of this split, as the run recorded them.
    """

    frame: pd.DataFrame
    target: str
    classes: tuple[int | str, ...]
    metrics: dict[str, float]

    def to_frame(self) -> pd.DataFrame:
        """One row a model."""
        return self.frame

    def confusion(self) -> pd.DataFrame:
        """How many models of each class (rows) are taken for which (columns)."""
        names = [str(value) for value in self.classes]
        pairs = self.frame[["target", "prediction"]].astype(str)
        counts = pd.crosstab(pairs["target"], pairs["prediction"])
        return counts.reindex(index=names, columns=names, fill_value=0)

    def plot(self, height: int = 520) -> go.Figure:
        """A confusion matrix for classes, predicted against true for numbers; trace 0 answers to clicks."""
        return self._matrix(height) if self.classes else self._scatter(height)

    def _matrix(self, height: int) -> go.Figure:
        counts = self.confusion()
        values = counts.to_numpy()
        shares = values / np.maximum(values.sum(1, keepdims=True), 1)
        drawing = figure(height=height)
        drawing.add_trace(
            go.Heatmap(
                z=shares, x=list(counts.columns), y=list(counts.index), customdata=values, zmin=0, zmax=1, xgap=1, ygap=1,
                colorscale=((0, "#F5F6F8"), (1, TARGET)),
                text=np.where(values > 0, values.astype(str), "") if len(counts) <= MOST_WRITTEN else None,
                texttemplate="%{text}" if len(counts) <= MOST_WRITTEN else None,
                hovertemplate="true %{y}, predicted %{x}: %{customdata} models, %{z:.0%} of the class<extra></extra>",
                colorbar={"thickness": 10, "tickformat": ".0%", "outlinewidth": 0, "title": {"text": "share of the class", "side": "right"}},
            )
        )  # fmt: skip
        drawing.update_xaxes(title_text=f"predicted {self.target}", type="category", showgrid=False, ticks="")
        drawing.update_yaxes(title_text=f"true {self.target}", type="category", autorange="reversed", showgrid=False, ticks="")  # fmt: skip
        return drawing

    def _scatter(self, height: int) -> go.Figure:
        part = self.frame if len(self.frame) <= MOST_POINTS else self.frame.sample(MOST_POINTS, random_state=0)
        drawing = figure(height=height)
        populations = part.index.str.rpartition("/").get_level_values(0)
        for place, name in enumerate(sorted(set(populations))):
            own = part[populations == name]
            drawing.add_trace(
                go.Scattergl(
                    x=own["target"], y=own["prediction"], mode="markers", name=name, customdata=own.index,
                    marker={"size": 7, "opacity": 0.8, "color": CATEGORICAL[place % len(CATEGORICAL)], "line": {"width": 0.5, "color": "#FFFFFF"}},
                    hovertemplate="%{customdata}<br>true %{x:.4g}, predicted %{y:.4g}<extra></extra>",
                )
            )  # fmt: skip
        both = part[["target", "prediction"]].to_numpy(np.float64)
        if both.size:
            ends = [float(np.nanmin(both)), float(np.nanmax(both))]
            drawing.add_scatter(x=ends, y=ends, mode="lines", name="exact", line={"color": REFERENCE, "dash": "dot", "width": 1.5}, hoverinfo="skip")  # fmt: skip
        drawing.update_xaxes(title_text=f"true {self.target}")
        drawing.update_yaxes(title_text=f"predicted {self.target}")
        return drawing


def predictions(run: Run, split: str) -> Predictions:
    """Targets and predictions of one split of a run."""
    table = run.table[run.table["split"] == split]
    frame = table[["target", "prediction", "split"]].set_axis(model_names(table))
    classes = tuple(run.record.classes) if run.record.kind == "classification" else ()
    return Predictions(frame, run.record.target, classes, run.record.metrics.get(split, {}))


def model_names(table: pd.DataFrame) -> pd.Index:
    """`population/id` of every row of a run's table."""
    return pd.Index(table["population"].astype(str) + "/" + table["id"].astype(str), name="model")


def run_metrics(run: Run) -> pd.DataFrame:
    """One row a split: its number of models and every metric."""
    rows = [
        {"split": split, "models": run.record.counts.get(split, 0), **run.record.metrics.get(split, {})}
        for split in SPLITS
        if split in run.record.metrics or split in run.record.counts
    ]
    return pd.DataFrame(rows)


def run_table(runs: list[Run]) -> pd.DataFrame:
    """One row a run: what was trained on what, and the metrics of the test split."""
    rows = [
        {
            "run": run.name,
            "metanet": run.record.metanet,
            "target": run.record.target,
            "populations": ", ".join(run.record.populations),
            "models": sum(run.record.counts.values()),
            "parameters": run.record.parameters,
            **{f"test {name}": value for name, value in run.record.metrics.get("test", {}).items()},
            "seconds": run.record.seconds,
            "finished": run.record.finished,
        }
        for run in runs
    ]
    return pd.DataFrame(rows)
