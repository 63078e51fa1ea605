"""PointNet, a network on unordered sets of points."""

import itertools
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from modelzoo.family import Family, FamilyConfig, Paper, Recipe, register
from modelzoo.task import Task


class PointNetConfig(FamilyConfig):
    """Sizes of a `PointNet`: of the perceptron that every point goes through, and of the one after pooling."""

    dimensions: int = Field(3, gt=0)
    point_hidden: tuple[int, ...] = Field((32, 64), min_length=1)
    set_hidden: tuple[int, ...] = (32,)
    classes: int = Field(5, gt=1)


class PointNet(nn.Module):
    """One perceptron shared by all points, the maximum over the set, one perceptron on top.

    y = g(max_p f(x_p)) with ReLU perceptrons f and g; the paper's input and feature transforms are left out.

    Shape:
        inputs `[B, points, dimensions]`; outputs `[B, classes]`, the same for every order of the points.
    """

    def __init__(self, config: PointNetConfig) -> None:
        super().__init__()
        point_sizes = (config.dimensions, *config.point_hidden)
        set_sizes = (config.point_hidden[-1], *config.set_hidden)
        self.point = nn.Sequential(*_layers(point_sizes))
        self.set = nn.Sequential(*_layers(set_sizes), nn.Linear(set_sizes[-1], config.classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.set(self.point(x).amax(1))


def _layers(sizes: tuple[int, ...]) -> list[nn.Module]:
    pairs = itertools.pairwise(sizes)
    return [layer for fan_in, fan_out in pairs for layer in (nn.Linear(fan_in, fan_out), nn.ReLU())]


def adapt(task: Task) -> dict[str, Any]:
    """Dimensions and classes from the task's shapes."""
    return {"dimensions": task.inputs.shape[1], "classes": task.targets.classes}


FAMILY = register(
    Family(
        name="pointnet",
        module=PointNet,
        config=PointNetConfig,
        task="solids",
        accepts=frozenset({"points"}),
        predicts=frozenset({"classes"}),
        adapt=adapt,
        paper=Paper(
            "PointNet: Deep Learning on Point Sets for 3D Classification and Segmentation",
            "Qi, Su, Mo and Guibas",
            2016,
        ),
        equation="y = g(max_p f(x_p))",
        symmetry="S_h in every hidden layer, one positive scale per hidden unit",
        recipe=Recipe(steps=400),
        tiny={"point_hidden": (16, 24), "set_hidden": (16,)},
        tiny_recipe=Recipe(steps=150, learning_rate=1e-2, batch_size=32),
        margin=0.4,
        variants={"wide": {"point_hidden": (64, 128), "set_hidden": (64,)}},
    )
)
