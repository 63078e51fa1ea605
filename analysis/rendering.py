"""What an implicit neural representation draws, beside the image it was trained on."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from analysis.theme import DIVERGING, GREYS, styled
from analysis.weights import Array
from modelzoo.errors import UserError
from modelzoo.store import Population
from modelzoo.task import Task


@dataclass(frozen=True)
class Reconstruction:
    """A model's image and its target.

    Args:
        model: `population/id`.
        label: name of the target's class, "" when it has none.
        image: what the model gives at the task's pixels, `[height, width, channels]`.
        target: what it was trained on, the same shape.
        fine: the model between the pixels, `[scale · height, scale · width, channels]`.
        metric: name of the task's metric.
        score: the metric of image against target.
    """

    model: str
    label: str
    image: Array
    target: Array
    fine: Array
    metric: str
    score: float

    def to_frame(self) -> pd.DataFrame:
        """One row a pixel and channel."""
        height, width, channels = self.image.shape
        index = pd.MultiIndex.from_product(
            [range(height), range(width), range(channels)], names=["row", "column", "channel"]
        )
        return pd.DataFrame({"image": self.image.ravel(), "target": self.target.ravel()}, index=index).reset_index()

    def plot(self) -> go.Figure:
        """Target, image, image between the pixels, and error, side by side."""
        error = (self.image - self.target).mean(-1)
        largest = float(np.abs(error).max()) or 1.0
        height, width = self.image.shape[:2]
        titles = (
            "target",
            f"model, {self.metric} {self.score:.1f}",
            "model, between the pixels",
            f"error, largest {largest:.1e}",
        )
        drawing = make_subplots(1, 4, subplot_titles=titles, horizontal_spacing=0.02)
        for place, picture in enumerate((self.target, self.image, self.fine), start=1):
            drawing.add_trace(_picture(picture, titles[place - 1]), row=1, col=place)
        drawing.add_trace(
            go.Heatmap(z=error, zmin=-largest, zmax=largest, colorscale=DIVERGING, showscale=False, name="error"),
            row=1, col=4,
        )  # fmt: skip
        drawing.update_xaxes(showticklabels=False, showgrid=False, ticks="", constrain="domain")
        drawing.update_yaxes(showticklabels=False, showgrid=False, ticks="", constrain="domain", autorange="reversed")
        for place in range(1, 5):
            drawing.update_yaxes(scaleanchor=f"x{place if place > 1 else ''}", scaleratio=1, row=1, col=place)
        styled(drawing, height=max(120, round(165 * height / max(width, height)) + 34))
        return drawing.update_layout(margin={"l": 4, "r": 4, "t": 30, "b": 4})


def _picture(values: Array, name: str) -> go.Heatmap | go.Image:
    if values.shape[-1] == 3:
        return go.Image(z=(np.clip(values, 0, 1) * 255).astype(np.uint8), name=name)
    return go.Heatmap(z=values[..., 0], zmin=0, zmax=1, colorscale=GREYS, showscale=False, name=name)


def is_image_task(task: Task) -> bool:
    """Whether a task's models are functions of a position in the plane, one model an image."""
    return task.inputs.kind == "coordinates" and task.inputs.shape == (2,) and task.instances > 0 and task.targets.shape in {(1,), (3,)}  # fmt: skip


def grid_axes(coordinates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two axes of a full grid, and for every pixel in reading order its row in `coordinates [pixel, 2]`.

    Raises:
        UserError: the coordinates are not every pair of the two axes' values, once.
    """
    rows, row_index = coordinates[:, 0].unique(return_inverse=True)
    columns, column_index = coordinates[:, 1].unique(return_inverse=True)
    flat = row_index * len(columns) + column_index
    if len(coordinates) != len(rows) * len(columns) or len(flat.unique()) != len(flat):
        raise UserError(f"the {len(coordinates)} coordinates are no full grid of {len(rows)} × {len(columns)} pixels, so they cannot be shown as an image.")  # fmt: skip
    return rows, columns, flat.argsort()


def refined(axis: Tensor, scale: int) -> Tensor:
    """`scale` positions a pixel over the same extent, pixels counted as cells of equal size."""
    half = (axis[-1] - axis[0]) / (2 * (len(axis) - 1)) if len(axis) > 1 else torch.tensor(1.0)
    ends = torch.linspace(float(axis[0] - half), float(axis[-1] + half), scale * len(axis) + 1)
    return (ends[1:] + ends[:-1]) / 2


@torch.no_grad()
def reconstruct(population: Population, row: int, checkpoint: int = -1, scale: int = 8) -> Reconstruction:
    """Evaluate an implicit representation at the pixels of its image and between them.

    Args:
        population: models of a task with two coordinates and one or three channels, one instance a model.
        row: the model's position in the table.
        checkpoint: index into the stored checkpoints.
        scale: positions per pixel and axis of the fine image.

    Raises:
        UserError: the population's models do not draw images, or their coordinates are no grid.
    """
    task = population.task
    if not is_image_task(task):
        raise UserError(f"models of {population.name!r} do not draw images: task {task.name!r} gives {task.inputs} and asks for {task.targets}.")  # fmt: skip
    data = task.data()
    (coordinates,) = data.test.inputs
    rows, columns, order = grid_axes(coordinates)
    module = population.module(row, checkpoint)
    outputs = module(coordinates)
    target = data.test.targets[int(population.table["instance"].iloc[row])]
    fine = torch.cartesian_prod(refined(rows, scale), refined(columns, scale))
    shape = (len(rows), len(columns), -1)
    label = int(population.table["label"].iloc[row]) if "label" in population.table else -1
    return Reconstruction(
        model=f"{population.name}/{population.table.index[row]}",
        label=data.instance_names[label] if 0 <= label < len(data.instance_names) else "",
        image=outputs[order].reshape(shape).double().numpy(),
        target=target[order].reshape(shape).double().numpy(),
        fine=module(fine.to(coordinates.dtype)).reshape(scale * len(rows), scale * len(columns), -1).double().numpy(),
        metric=task.metric,
        score=float(task.score(outputs, target)),
    )
