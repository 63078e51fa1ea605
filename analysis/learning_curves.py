"""How metanets learn: losses and validation metrics over epochs, of one run or of many beside each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from analysis.theme import CATEGORICAL, styled

VALIDATION = "validation_"
LOSSES = ("train_loss", "validation_loss")
BESIDE = 8  # runs up to which the legend stands above the panels


@dataclass(frozen=True)
class LearningCurves:
    """Curves of runs.

    Args:
        curves: by the name of the run, one row an epoch: epoch, train_loss, validation_loss and validation metrics.
    """

    curves: Mapping[str, pd.DataFrame]

    @property
    def metrics(self) -> list[str]:
        """Validation metrics that any of the runs has."""
        names = dict.fromkeys(str(name) for frame in self.curves.values() for name in frame.columns)
        return [name for name in names if name.startswith(VALIDATION) and name not in LOSSES]

    def to_frame(self) -> pd.DataFrame:
        """One row a run: its epochs, and the values of the epoch of least validation loss, which is the one that is kept."""
        rows: list[dict[str, Any]] = []
        shown = {"train_loss": "training loss", "validation_loss": "validation loss"}
        shown |= {name: name.removeprefix(VALIDATION) for name in self.metrics}
        for name, frame in self.curves.items():
            losses = frame["validation_loss"].to_numpy(np.float64)
            best = frame.iloc[int(np.nanargmin(losses)) if np.isfinite(losses).any() else -1]
            rows.append(
                {"run": name, "epochs": len(frame), "best epoch": int(best["epoch"])}
                | {title: float(best[column]) for column, title in shown.items() if column in frame}
            )
        return pd.DataFrame(rows)

    def plot(self, height: int = 360) -> go.Figure:
        """The losses, dotted in training, then a panel for every validation metric; a run has one colour in all of them."""
        panels = ["loss (dotted: training)", *(name.removeprefix(VALIDATION) for name in self.metrics)]
        drawing = make_subplots(1, len(panels), subplot_titles=panels, horizontal_spacing=0.16 / len(panels))
        count, colours = len(self.curves), list(CATEGORICAL)
        if count > len(colours):  # runs next to each other, such as seeds, then look alike
            colours = sample_colorscale("Turbo", [place / (count - 1) for place in range(count)])
        for colour, (name, frame) in zip(colours, self.curves.items(), strict=False):
            for column in ("validation_loss", "train_loss", *self.metrics):
                if column not in frame:
                    continue
                known, training = frame[["epoch", column]].dropna(), column == "train_loss"
                drawing.add_scatter(
                    x=known["epoch"], y=known[column], mode="lines", name=name, legendgroup=name,
                    showlegend=column == "validation_loss", row=1,
                    col=1 if column in LOSSES else 2 + self.metrics.index(column),
                    line={"width": 1.25 if training else 2, "color": colour, "dash": "dot" if training else "solid"},
                    hovertemplate=f"{column} %{{y:.4g}}, epoch %{{x}}",
                )  # fmt: skip
        drawing.update_xaxes(title_text="epoch")
        styled(drawing, height)
        if count > BESIDE:
            return drawing.update_layout(
                legend={"orientation": "v", "x": 1.01, "y": 1, "yanchor": "top", "tracegroupgap": 0}
            )
        return drawing.update_layout(legend={"y": 1.12}, margin={"t": 72})
