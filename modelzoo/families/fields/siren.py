"""SIREN, the implicit neural representation with sine activations."""

import itertools
from math import prod, sqrt
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from modelzoo.family import Family, FamilyConfig, Paper, Perceptron, Recipe, register
from modelzoo.task import Task


class SirenConfig(FamilyConfig):
    """Sizes of a `Siren`; `omega` is the frequency ω₀ of every sine."""

    in_features: int = Field(2, gt=0)
    hidden: tuple[int, ...] = Field((32, 32), min_length=1)
    out_features: int = Field(1, gt=0)
    omega: float = Field(30.0, gt=0)


class Siren(nn.Module):
    """Implicit neural representation with sine activations.

    h_l = sin(ω₀ (W_l h_{l-1} + b_l)), y = W_L h_{L-1} + b_L, with the paper's initialisation: first layer uniform in
    ±1/fan_in, later layers uniform in ±sqrt(6/fan_in)/ω₀.

    Shape:
        inputs `[B, in_features]` coordinates in [-1, 1]; outputs `[B, out_features]`.
    """

    def __init__(self, config: SirenConfig) -> None:
        super().__init__()
        self.omega = config.omega
        sizes = (config.in_features, *config.hidden, config.out_features)
        layers = [nn.Linear(fan_in, fan_out) for fan_in, fan_out in itertools.pairwise(sizes)]
        for depth, layer in enumerate(layers):
            bound = 1 / layer.in_features if depth == 0 else sqrt(6 / layer.in_features) / config.omega
            nn.init.uniform_(layer.weight, -bound, bound)
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.sin(self.omega * layer(x))
        return self.layers[-1](x)


def adapt(task: Task) -> dict[str, Any]:
    """In and out sizes from the task's shapes."""
    return {"in_features": prod(task.inputs.shape), "out_features": task.targets.classes or prod(task.targets.shape)}


def perceptron(config: SirenConfig) -> Perceptron:
    """The module as one operation can train it."""
    return Perceptron(tuple(f"layers.{i}" for i in range(len(config.hidden) + 1)), "sin", config.omega)


FAMILY = register(
    Family(
        name="siren",
        module=Siren,
        config=SirenConfig,
        task="digits_inr",
        accepts=frozenset({"coordinates", "vector"}),
        predicts=frozenset({"vector", "classes"}),
        adapt=adapt,
        paper=Paper("Implicit Neural Representations with Periodic Activation Functions", "Sitzmann et al.", 2020),
        equation="h_l = sin(ω₀ (W_l h_{l-1} + b_l))",
        symmetry="signed permutations (hyperoctahedral group) of every hidden layer, and shifts of b by 2π/ω₀",
        recipe=Recipe(steps=300, learning_rate=2e-3),
        tiny={"hidden": (16, 16)},
        tiny_recipe=Recipe(steps=150, learning_rate=5e-3),
        margin=5.0,
        perceptron=perceptron,
        variants={"deep": {"hidden": (32, 32, 32)}},
    )
)
