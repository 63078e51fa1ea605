"""The multilayer perceptron."""

import itertools
from math import prod
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from modelzoo.family import Family, FamilyConfig, Paper, Perceptron, Recipe, register
from modelzoo.task import Task

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


class MLPConfig(FamilyConfig):
    """Sizes and activation of an `MLP`."""

    in_features: int = Field(64, gt=0)
    hidden: tuple[int, ...] = (32, 32)
    out_features: int = Field(10, gt=0)
    activation: Literal["relu", "tanh", "gelu"] = "relu"


class MLP(nn.Module):
    """Multilayer perceptron on flattened inputs.

    h_l = act(W_l h_{l-1} + b_l), y = W_L h_{L-1} + b_L.

    Shape:
        inputs `[B, *shape]` with `prod(shape) == in_features`; outputs `[B, out_features]`.
    """

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        sizes = (config.in_features, *config.hidden)
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[config.activation]()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], config.out_features))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1))


def adapt(task: Task) -> dict[str, Any]:
    """In and out sizes from the task's shapes."""
    return {"in_features": prod(task.inputs.shape), "out_features": task.targets.classes or prod(task.targets.shape)}


def perceptron(config: MLPConfig) -> Perceptron:
    """The module as one operation can train it; activations stand between the linear layers."""
    return Perceptron(tuple(f"layers.{2 * i}" for i in range(len(config.hidden) + 1)), config.activation)


FAMILY = register(
    Family(
        name="mlp",
        module=MLP,
        config=MLPConfig,
        task="digits",
        accepts=frozenset({"vector", "image", "coordinates"}),
        predicts=frozenset({"classes", "vector"}),
        adapt=adapt,
        paper=Paper("Learning representations by back-propagating errors", "Rumelhart, Hinton and Williams", 1986),
        equation="h_l = act(W_l h_{l-1} + b_l)",
        symmetry="S_h in every hidden layer; with ReLU one positive scale per hidden unit, with tanh one sign",
        recipe=Recipe(steps=600),
        tiny={"hidden": (16,)},
        tiny_recipe=Recipe(steps=150, learning_rate=1e-2),
        margin=0.6,
        perceptron=perceptron,
        variants={"tanh": {"activation": "tanh"}, "wide": {"hidden": (128, 128)}},
    )
)
