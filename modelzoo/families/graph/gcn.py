"""The graph convolutional network."""

import itertools
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch_geometric.nn import GCNConv

from modelzoo.family import Family, FamilyConfig, Paper, Recipe, register
from modelzoo.task import Task


class GCNConfig(FamilyConfig):
    """Sizes of a `GCN`."""

    in_features: int = Field(34, gt=0)
    hidden: tuple[int, ...] = Field((16,), min_length=1)
    out_features: int = Field(2, gt=0)


class GCN(nn.Module):
    """Graph convolutional network for the nodes of a graph.

    H_l = relu(D^-½ (A + I) D^-½ H_{l-1} W_l + b_l), the last layer without ReLU; D holds the degrees of A + I.

    Shape:
        x `[N, in_features]`, edge_index `[2, E]` without self-loops; outputs `[N, out_features]`.
    """

    def __init__(self, config: GCNConfig) -> None:
        super().__init__()
        sizes = (config.in_features, *config.hidden, config.out_features)
        # Self-loops are added below: the layer's own way has shapes that depend on data, which cannot be exported.
        layers = [GCNConv(fan_in, fan_out, add_self_loops=False) for fan_in, fan_out in itertools.pairwise(sizes)]
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        loops = torch.arange(len(x), device=edge_index.device).expand(2, -1)
        edges = torch.cat([edge_index, loops], 1)
        for layer in self.layers[:-1]:
            x = layer(x, edges).relu()
        return self.layers[-1](x, edges)


def adapt(task: Task) -> dict[str, Any]:
    """In and out sizes from the task's shapes."""
    return {"in_features": task.inputs.shape[1], "out_features": task.targets.classes or task.targets.shape[-1]}


FAMILY = register(
    Family(
        name="gcn",
        module=GCN,
        config=GCNConfig,
        task="karate",
        accepts=frozenset({"graph"}),
        predicts=frozenset({"classes", "vector"}),
        adapt=adapt,
        paper=Paper("Semi-Supervised Classification with Graph Convolutional Networks", "Kipf and Welling", 2016),
        equation="H_l = relu(D^-½ (A + I) D^-½ H_{l-1} W_l + b_l)",
        symmetry="S_h in every hidden layer, one positive scale per hidden unit",
        recipe=Recipe(steps=200, learning_rate=1e-2),
        tiny={"hidden": (8,)},
        tiny_recipe=Recipe(steps=60, learning_rate=2e-2),
        margin=0.2,
        variants={"deep": {"hidden": (16, 16)}},
    )
)
