"""Convolutional networks from a small grammar: every member is another directed graph of operations."""

from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from modelzoo.family import Family, FamilyConfig, Paper, Recipe, register
from modelzoo.task import Task

OPERATIONS = ("conv3", "conv1", "depthwise", "norm", "pool")


class CellCNNConfig(FamilyConfig):
    """An architecture: `nodes[k]` is the operation of node k + 1 and the earlier nodes it sums, e.g. `conv3:0+2`.

    Node 0 is the stem, a convolution of the image. Operations are conv3, conv1, depthwise, norm and pool.
    """

    in_channels: int = Field(1, gt=0)
    channels: int = Field(8, gt=0)
    nodes: tuple[str, ...] = ("conv3:0", "norm:1", "conv1:0", "conv3:2+3")
    classes: int = Field(10, gt=1)

    @field_validator("nodes")
    @classmethod
    def _grammar(cls, nodes: tuple[str, ...]) -> tuple[str, ...]:
        for number, node in enumerate(nodes, 1):
            operation, _, inputs = node.partition(":")
            read = inputs.split("+")
            if operation not in OPERATIONS or not all(part.isdigit() and int(part) < number for part in read):
                raise ValueError(
                    f"node {number} must be OPERATION:INPUTS with one of {', '.join(OPERATIONS)} and earlier nodes joined by +"
                )
        return nodes


def operation(name: str, channels: int) -> nn.Module:
    """One node's layer; convolutions end with ReLU."""
    return {
        "conv3": lambda: nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()),
        "conv1": lambda: nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU()),
        "depthwise": lambda: nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, groups=channels), nn.ReLU()),
        "norm": lambda: nn.GroupNorm(1, channels),
        "pool": lambda: nn.AvgPool2d(3, stride=1, padding=1),
    }[name]()


class CellCNN(nn.Module):
    """A stem, a directed acyclic graph of operations on feature maps, global average pooling and a linear layer.

    h_0 = relu(K * x), h_k = op_k(Σ_{j → k} h_j), y = W mean_{x,y} Σ_{k unread} h_k + b.

    Shape:
        inputs `[B, in_channels, H, W]`; outputs `[B, classes]`.
    """

    def __init__(self, config: CellCNNConfig) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(config.in_channels, config.channels, 3, stride=2, padding=1), nn.ReLU())
        parts = [node.partition(":") for node in config.nodes]
        self.nodes = nn.ModuleList(operation(name, config.channels) for name, _, _ in parts)
        self.reads = [[int(part) for part in inputs.split("+")] for _, _, inputs in parts]
        read = {part for inputs in self.reads for part in inputs}
        self.unread = [k for k in range(len(parts) + 1) if k not in read]
        self.head = nn.Linear(config.channels, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        values = [self.stem(x)]
        for node, inputs in zip(self.nodes, self.reads, strict=True):
            values.append(node(sum((values[k] for k in inputs[1:]), values[inputs[0]])))
        last = sum((values[k] for k in self.unread[1:]), values[self.unread[0]])
        return self.head(last.mean((-2, -1)))


def sample_nodes(count: int, generator: torch.Generator) -> tuple[str, ...]:
    """A random sentence of the grammar: every node follows the one before, and sums a second one half of the time."""
    nodes = []
    for number in range(1, count + 1):
        name = OPERATIONS[int(torch.randint(len(OPERATIONS), (), generator=generator))]
        inputs = [number - 1]
        if number > 1 and torch.rand((), generator=generator) < 0.5:
            inputs.append(int(torch.randint(number - 1, (), generator=generator)))
        nodes.append(f"{name}:{'+'.join(map(str, inputs))}")
    return tuple(nodes)


def adapt(task: Task) -> dict[str, Any]:
    """Channels and classes from the task's shapes."""
    return {"in_channels": task.inputs.shape[0], "classes": task.targets.classes}


FAMILY = register(
    Family(
        name="cell_cnn",
        module=CellCNN,
        config=CellCNNConfig,
        task="digits",
        accepts=frozenset({"image"}),
        predicts=frozenset({"classes"}),
        adapt=adapt,
        paper=Paper("Parameter Prediction for Unseen Deep Architectures", "Knyazev et al.", 2021, "S097"),
        equation="h_k = op_k(Σ_{j → k} h_j), y = W mean(Σ_{k unread} h_k) + b",
        symmetry="S_c in every convolution's outputs, shared wherever feature maps are summed, with positive scales where no norm is",
        recipe=Recipe(steps=400, learning_rate=5e-3),
        tiny={},
        tiny_recipe=Recipe(steps=150, learning_rate=2e-2),
        margin=0.4,
    )
)
