"""The multilayer perceptron with tensor-train layers."""

import itertools
from math import prod
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from modelzoo.blocks.tensor_train import TTLinear, factorise
from modelzoo.family import Family, FamilyConfig, Paper, Recipe, register
from modelzoo.task import Task


class TTMLPConfig(FamilyConfig):
    """Sizes of a `TTMLP`: every layer's size is split into `order` factors, bonds are at most `rank`."""

    in_features: int = Field(64, gt=0)
    hidden: tuple[int, ...] = Field((64, 64), min_length=1)
    out_features: int = Field(10, gt=0)
    order: int = Field(3, gt=1)
    rank: int = Field(4, gt=0)


class TTMLP(nn.Module):
    """Multilayer perceptron whose hidden weights are tensor trains, with a dense read-out.

    h_l = relu(TT_l h_{l-1} + b_l), TT_l[i_1 … i_d, j_1 … j_d] = G_1[i_1, j_1] ⋯ G_d[i_d, j_d], y = W h_L + b.

    Shape:
        inputs `[B, *shape]` with `prod(shape) == in_features`; outputs `[B, out_features]`.
    """

    def __init__(self, config: TTMLPConfig) -> None:
        super().__init__()
        shapes = [factorise(size, config.order) for size in (config.in_features, *config.hidden)]
        layers: list[nn.Module] = []
        for columns, rows in itertools.pairwise(shapes):
            layers += [TTLinear(columns, rows, config.rank), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(config.hidden[-1], config.out_features))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1))


def adapt(task: Task) -> dict[str, Any]:
    """In and out sizes from the task's shapes."""
    return {"in_features": prod(task.inputs.shape), "out_features": task.targets.classes or prod(task.targets.shape)}


FAMILY = register(
    Family(
        name="tt_mlp",
        module=TTMLP,
        config=TTMLPConfig,
        task="digits",
        accepts=frozenset({"vector", "image"}),
        predicts=frozenset({"classes", "vector"}),
        adapt=adapt,
        paper=Paper("Tensorizing Neural Networks", "Novikov et al.", 2015),
        equation="h_l = relu(TT_l h_{l-1} + b_l), TT_l[i, j] = G_1[i_1, j_1] ⋯ G_d[i_d, j_d]",
        symmetry="GL(r) on every bond of every train; a product of symmetric groups S_{n_1} × ⋯ × S_{n_d} in every hidden "
        "layer, one for each factor of its size, with one positive scale per index of a factor",
        recipe=Recipe(steps=600, learning_rate=5e-3),
        tiny={"hidden": (27,), "rank": 3},
        tiny_recipe=Recipe(steps=150, learning_rate=2e-2),
        margin=0.5,
        variants={"low_rank": {"rank": 2}, "order_two": {"order": 2}},
    )
)
