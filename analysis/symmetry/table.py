"""A symmetry group as a table, and as a picture of which factor moves which tensor."""

from dataclasses import dataclass
from math import e, log

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.theme import CATEGORICAL, styled
from graphs import SymmetryGroup, Verdict


@dataclass(frozen=True)
class GroupTable:
    """The factors of a group.

    Args:
        rows: what `SymmetryGroup.table` gives: factor, group, acts on, dimension, log order.
        tensors: names of all parameters and buffers, in the module's order.
        dimension: of the whole group as a Lie group.
        log_order: natural logarithm of the order of its discrete part.
        unknown_ops: operators without a rule, whose tensors were left fixed.
        verdict: the numerical check, None when it was not made.
    """

    rows: tuple[dict[str, object], ...]
    tensors: tuple[str, ...]
    dimension: int
    log_order: float
    unknown_ops: tuple[tuple[str, str], ...] = ()
    verdict: Verdict | None = None

    @property
    def order(self) -> str:
        """The order of the discrete part in words, a power of ten when it is large."""
        if self.log_order < log(1e6):
            return f"{round(e**self.log_order):,}"
        return f"10^{self.log_order / log(10):.0f}"

    def to_frame(self) -> pd.DataFrame:
        """One row a factor; `acts on` lists dimensions of tensors, `name[dimension]`."""
        frame = pd.DataFrame(list(self.rows), columns=["factor", "group", "acts on", "dimension", "log order"])
        frame["acts on"] = [", ".join(places) for places in frame["acts on"]]
        return frame

    def plot(self) -> go.Figure:
        """Tensors against factors: a mark where a factor moves a dimension of a tensor, with the dimension's number."""
        marks = np.full((len(self.rows), len(self.tensors)), "", dtype=object)
        for place, row in enumerate(self.rows):
            acts = row["acts on"]
            assert isinstance(acts, list)
            for slot in acts:
                name, _, dims = str(slot).partition("[")
                column = self.tensors.index(name)
                marks[place, column] = ", ".join(filter(None, (marks[place, column], dims.rstrip("]") or "all")))
        y = [f"{row['group']}  {row['factor']}" for row in self.rows]
        drawing = go.Figure(
            go.Heatmap(
                z=(marks != "").astype(float), x=list(self.tensors), y=y, text=marks, texttemplate="%{text}", xgap=2, ygap=2,
                colorscale=((0, "#F5F6F8"), (1, CATEGORICAL[0])), zmin=0, zmax=1, showscale=False,
                hovertemplate="%{y}<br>moves dimension %{text} of %{x}<extra></extra>",
            )
        )  # fmt: skip
        drawing.update_yaxes(autorange="reversed", showgrid=False, ticks="", type="category")
        drawing.update_xaxes(showgrid=False, ticks="", type="category", tickangle=-30)
        styled(drawing, height=110 + 26 * max(len(self.rows), 1))
        return drawing.update_layout(margin={"t": 8, "b": 8})


def group_table(group: SymmetryGroup, verdict: Verdict | None = None) -> GroupTable:
    """The table of a group with the verdict of its check."""
    return GroupTable(
        tuple(group.table()), tuple(group.program.tensors), group.dimension, group.log_order, group.unknown_ops,
        verdict or group.verdict,
    )  # fmt: skip
