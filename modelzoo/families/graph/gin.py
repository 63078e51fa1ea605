"""The graph isomorphism network."""

import itertools
from typing import Any

from pydantic import Field
from torch import Tensor, nn
from torch_geometric.nn import GINConv

from modelzoo.family import Family, FamilyConfig, Paper, Recipe, register
from modelzoo.task import Task


class GINConfig(FamilyConfig):
    """Sizes of a `GIN`: `hidden` is the width of each layer and of the perceptron inside it."""

    in_features: int = Field(3, gt=0)
    hidden: tuple[int, ...] = Field((16, 16), min_length=1)
    out_features: int = Field(3, gt=0)


class GIN(nn.Module):
    """Graph isomorphism network for the nodes of a graph.

    h_v ← relu(MLP_l((1 + ε_l) h_v + Σ_{u → v} h_u)), y_v = W h_v + b; the sum keeps what mean and maximum lose.

    Shape:
        x `[N, in_features]`, edge_index `[2, E]`; outputs `[N, out_features]`.
    """

    def __init__(self, config: GINConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            GINConv(nn.Sequential(nn.Linear(fan_in, width), nn.ReLU(), nn.Linear(width, width)), train_eps=True)
            for fan_in, width in itertools.pairwise((config.in_features, *config.hidden))
        )
        self.head = nn.Linear(config.hidden[-1], config.out_features)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, edge_index).relu()
        return self.head(x)


def adapt(task: Task) -> dict[str, Any]:
    """In and out sizes from the task's shapes."""
    return {"in_features": task.inputs.shape[1], "out_features": task.targets.classes or task.targets.shape[-1]}


FAMILY = register(
    Family(
        name="gin",
        module=GIN,
        config=GINConfig,
        task="stochastic_block",
        accepts=frozenset({"graph"}),
        predicts=frozenset({"classes", "vector"}),
        adapt=adapt,
        paper=Paper("How Powerful are Graph Neural Networks?", "Xu, Hu, Leskovec and Jegelka", 2018),
        equation="h_v ← relu(MLP((1 + ε) h_v + Σ_u h_u))",
        symmetry="S_h in every layer and inside every perceptron, one positive scale per unit",
        recipe=Recipe(steps=200, learning_rate=5e-3),
        tiny={"hidden": (8, 8)},
        tiny_recipe=Recipe(steps=120, learning_rate=1e-2),
        margin=0.35,
        variants={"deep": {"hidden": (16, 16, 16)}},
    )
)
