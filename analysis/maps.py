"""The parameters of a model as heat maps on one diverging scale."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from analysis.theme import DIVERGING, styled
from analysis.weights import Array, chosen_tensors, real
from modelzoo.store import Population

LARGEST_MAP = 256  # rows and columns of a matrix that are drawn


@dataclass(frozen=True)
class WeightMaps:
    """The parameters of one model as matrices `[out, in · kernel]`; a vector is one column."""

    model: str
    matrices: dict[str, Array]
    shapes: dict[str, tuple[int, ...]]
    limit: float

    def to_frame(self) -> pd.DataFrame:
        """Long form: one row an entry that is drawn."""
        parts = []
        for name, matrix in self.matrices.items():
            rows, columns = np.indices(matrix.shape)
            parts.append(pd.DataFrame({"tensor": name, "row": rows.ravel(), "column": columns.ravel(), "value": matrix.ravel()}))  # fmt: skip
        return pd.concat(parts, ignore_index=True)

    def plot(self) -> go.Figure:
        """Heat maps side by side on one diverging scale centred at 0."""
        names = list(self.matrices)
        per_row = min(len(names), 6)
        rows = ceil(len(names) / per_row)
        widths = [max(sqrt(self.matrices[name].shape[1]), 1.2) for name in names[:per_row]]
        titles = [f"{name}<br><span style='font-size:10px'>{' × '.join(map(str, self.shapes[name]))}</span>" for name in names]  # fmt: skip
        drawing = make_subplots(
            rows, per_row, subplot_titles=titles, column_widths=widths if rows == 1 else None,
            horizontal_spacing=0.035, vertical_spacing=min(0.3 / rows, 0.16),
        )  # fmt: skip
        for place, name in enumerate(names):
            matrix = self.matrices[name]
            drawing.add_trace(
                go.Heatmap(
                    z=matrix, coloraxis="coloraxis", name=name,
                    hovertemplate="row %{y}, column %{x}<br>%{z:.4g}<extra>" + name + "</extra>",
                ),
                row=place // per_row + 1, col=place % per_row + 1,
            )  # fmt: skip
        drawing.update_xaxes(showticklabels=False, showgrid=False, ticks="")
        drawing.update_yaxes(showticklabels=False, showgrid=False, ticks="", autorange="reversed")
        styled(drawing, height=40 + 250 * rows)
        drawing.update_layout(
            margin={"l": 8, "r": 8, "t": 48, "b": 8},
            coloraxis={
                "colorscale": DIVERGING, "cmin": -self.limit, "cmax": self.limit, "cmid": 0,
                "colorbar": {"thickness": 10, "len": min(1.0, 220 / (250 * rows) + 0.1), "outlinewidth": 0},
            },
        )  # fmt: skip
        return drawing


def as_matrix(values: Tensor) -> Array:
    """A tensor as a matrix: out × in for a linear layer, kernels laid out as tiles for a convolution, else flattened.

    Args:
        values: `[]`, `[out]`, `[out, in]`, `[out, in, *kernel]`.

    Returns:
        At most `LARGEST_MAP` rows and columns from the upper left corner.
    """
    dense = real(values.detach()).cpu().double().numpy()
    if dense.ndim < 2:
        dense = dense.reshape(-1, 1)
    elif dense.ndim == 4:  # tiles: [out · height, in · width]
        dense = dense.transpose(0, 2, 1, 3).reshape(dense.shape[0] * dense.shape[2], -1)
    else:
        dense = dense.reshape(dense.shape[0], -1)
    return dense[:LARGEST_MAP, :LARGEST_MAP]


def weight_maps(
    population: Population, row: int, checkpoint: int = -1, tensors: Sequence[str] | None = None
) -> WeightMaps:
    """The parameters of one model as matrices, on a common scale.

    Args:
        population: the population.
        row: the model's position in the table.
        checkpoint: index into the stored checkpoints.
        tensors: names of the parameters to show, None for all.
    """
    names = chosen_tensors(population, tensors)
    stacked = population.stacked(slice(row, row + 1), checkpoint)
    return maps_of({name: stacked[name][0] for name in names}, f"{population.name}/{population.table.index[row]}")


def maps_of(parameters: dict[str, Tensor], model: str, limit: float | None = None) -> WeightMaps:
    """Heat maps of a parameter dict; `limit` fixes the ends of the scale (None: the 99.5% quantile of the sizes)."""
    matrices = {name: as_matrix(values) for name, values in parameters.items()}
    if limit is None:
        sizes = np.abs(np.concatenate([matrix.ravel() for matrix in matrices.values()]))
        finite = sizes[np.isfinite(sizes)]
        limit = float(np.quantile(finite, 0.995)) if finite.size else 1.0
    return WeightMaps(model, matrices, {name: tuple(values.shape) for name, values in parameters.items()}, limit or 1.0)
