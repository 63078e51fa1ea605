"""The loss on the plane through three models: one, another, and the other aligned with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from analysis.analysis import analysis
from analysis.symmetry.merging import Evaluation, average, evaluation_of
from analysis.symmetry.weight_matching import PairOptions, match_weights, pair, state
from analysis.theme import INK, SEQUENTIAL, figure
from graphs.symmetry import symmetry
from modelzoo.errors import UserError
from modelzoo.store import Population


@dataclass(frozen=True)
class LossPlane:
    """Losses on a grid in the plane of three models, in orthonormal coordinates (distances in weight space).

    Args:
        x: `[column]`.
        y: `[row]`.
        losses: `[row, column]`.
        corners: `[3, 2]` coordinates of the models.
        names: of the models.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    losses: NDArray[np.float64]
    corners: NDArray[np.float64]
    names: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row a grid point."""
        x, y = np.meshgrid(self.x, self.y)
        return pd.DataFrame({"x": x.ravel(), "y": y.ravel(), "loss": self.losses.ravel()})

    def plot(self) -> go.Figure:
        """Contours of the logarithm of the loss, with the models marked."""
        chart = figure(height=420)
        chart.add_contour(x=self.x, y=self.y, z=np.log10(np.maximum(self.losses, 1e-12)), colorscale=SEQUENTIAL, ncontours=24, colorbar={"title": "log10 loss"})  # fmt: skip
        chart.add_scatter(x=self.corners[:, 0], y=self.corners[:, 1], text=self.names, mode="markers+text", textposition="top center", marker={"color": "white", "size": 9, "line": {"color": INK, "width": 2}}, textfont={"color": "white"})  # fmt: skip
        return chart.update_layout(showlegend=False, xaxis_title="distance", yaxis_scaleanchor="x")


def plane(
    evaluation: Evaluation,
    models: Sequence[Mapping[str, Tensor]],
    names: Sequence[str],
    points: int = 21,
    margin: float = 0.25,
) -> LossPlane:
    """Losses in the plane through three models.

    Args:
        evaluation: what a model's loss is.
        models: three of them, parameters and buffers by name.
        names: of the models.
        points: of the grid, along each side.
        margin: how far the grid goes beyond the models, relative to their extent.

    Raises:
        UserError: the models lie on one line.
    """
    parameters = [name for name, tensor in models[0].items() if tensor.is_floating_point() or tensor.is_complex()]
    flat = torch.stack([torch.cat([model[name].flatten().to(torch.complex128) for name in parameters]) for model in models])  # fmt: skip
    flat = torch.view_as_real(flat).flatten(1)
    u, v = flat[1] - flat[0], flat[2] - flat[0]
    first = u / u.norm().clamp_min(1e-300)
    rest = v - (v @ first) * first
    if not rest.norm() > 1e-9 * v.norm():
        raise UserError("the three models lie on one line, so they span no plane; choose other models.")
    second = rest / rest.norm()
    corners = torch.stack([torch.stack([w @ first, w @ second]) for w in (torch.zeros_like(u), u, v)]).numpy()
    low, high = corners.min(0), corners.max(0)
    reach = margin * (high - low)
    x, y = (np.linspace(low[k] - reach[k], high[k] + reach[k], points) for k in range(2))
    basis = np.linalg.inv(np.stack([corners[1], corners[2]], 1))
    losses = np.empty((points, points))
    for row, column in np.ndindex(points, points):
        a, b = basis @ np.array([x[column], y[row]])
        losses[row, column] = evaluation(average(models, (1 - a - b, a, b)))[0]
    return LossPlane(x, y, losses, corners, tuple(names))


class LossPlaneOptions(PairOptions):
    """Two models by id, and the grid."""

    points: int = Field(21, ge=2)


@analysis("loss_plane", of="population", options=LossPlaneOptions, tiny={"points": 3}, example="small_cnn")
def loss_plane(population: Population, options: LossPlaneOptions) -> LossPlane:
    """Loss on the plane through a model, another one, and the other one aligned with it."""
    first, second = (state(population, row) for row in pair(population, options))
    evaluation = evaluation_of(population)
    group = symmetry(population.template(), population.example_inputs(), verify=False)
    aligned = match_weights(group, first, second, options.seed).tensors
    return plane(evaluation, (first, second, aligned), ("first", "second", "second aligned"), options.points)
