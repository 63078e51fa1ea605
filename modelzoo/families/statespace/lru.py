"""The linear recurrent unit: a diagonal complex recurrence between gated pointwise layers."""

from math import pi, prod
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from modelzoo.family import Family, FamilyConfig, Paper, Recipe, register
from modelzoo.task import Task


class LRUConfig(FamilyConfig):
    """Sizes of an `LRU` and the ring `smallest ≤ |λ| ≤ largest`, `0 ≤ arg λ ≤ phase` its eigenvalues start in.

    With a `vocabulary` the inputs are tokens.
    """

    in_features: int = Field(8, gt=0)
    vocabulary: int | None = Field(None, gt=0)
    width: int = Field(32, gt=0)
    state: int = Field(32, gt=0)
    depth: int = Field(2, gt=0)
    out_features: int = Field(10, gt=0)
    smallest: float = Field(0.5, ge=0, lt=1)
    largest: float = Field(0.99, gt=0, lt=1)
    phase: float = Field(pi, gt=0)


class LRULayer(nn.Module):
    """The linear recurrent unit.

    s_t = λ ⊙ s_{t-1} + exp(γ) ⊙ B x_t, y_t = Re(C s_t) + D ⊙ x_t with λ = exp(-exp(ν) + i exp(θ)), so that |λ| < 1
    for every ν; γ starts at log sqrt(1 - |λ|²), which gives state and output the variance of the input.

    Shape:
        inputs and outputs `[B, T, width]`; B `[state, width]` and C `[width, state]` complex; ν, θ, γ `[state]`.
    """

    def __init__(self, config: LRUConfig) -> None:
        super().__init__()
        width, state = config.width, config.state
        share = torch.rand(state)  # |λ|² uniform: uniform on the area of the ring
        radius = (share * (config.largest**2 - config.smallest**2) + config.smallest**2).sqrt()
        self.nu = nn.Parameter((-radius.log()).log())
        self.theta = nn.Parameter((config.phase * torch.rand(state)).log())
        self.gamma = nn.Parameter((1 - radius**2).sqrt().log())
        self.input = nn.Parameter(torch.randn(state, width, dtype=torch.cfloat) / width**0.5)
        self.output = nn.Parameter(torch.randn(width, state, dtype=torch.cfloat) * (2 / state) ** 0.5)
        self.skip = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        eigenvalues = torch.polar((-self.nu.exp()).exp(), self.theta.exp())
        driven = torch.complex(x, torch.zeros_like(x)) @ self.input.T * self.gamma.exp()  # [B, T, state]
        state = torch.zeros_like(driven[:, 0])
        states = []
        for drive in driven.unbind(1):
            state = eigenvalues * state + drive
            states.append(state)
        return (torch.stack(states, 1) @ self.output.T).real + self.skip * x


class LRUBlock(nn.Module):
    """Norm, linear recurrent unit, gated linear unit, skip connection.

    x + GLU(gelu(LRULayer(norm(x)))), GLU(h) = (W h + b) ⊙ σ(V h + d).

    Shape:
        inputs and outputs `[B, T, width]`.
    """

    def __init__(self, config: LRUConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.recurrence = LRULayer(config)
        self.value = nn.Linear(config.width, config.width)
        self.gate = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.gelu(self.recurrence(self.norm(x)))
        return x + self.value(hidden) * self.gate(hidden).sigmoid()


class LRU(nn.Module):
    """Deep linear recurrent units: a linear encoder, residual blocks, and a linear read-out of the time average.

    x_0 = W_in u, x_l = x_{l-1} + GLU(gelu(LRULayer(norm(x_{l-1})))), y = W_out mean_t x_L + b.

    Shape:
        inputs `[B, T, in_features]`, or tokens `[B, T]`; outputs `[B, out_features]`.
    """

    def __init__(self, config: LRUConfig) -> None:
        super().__init__()
        self.encoder = (
            nn.Embedding(config.vocabulary, config.width)
            if config.vocabulary
            else nn.Linear(config.in_features, config.width)
        )
        self.blocks = nn.Sequential(*[LRUBlock(config) for _ in range(config.depth)])
        self.head = nn.Linear(config.width, config.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.encoder(x)).mean(1))


def adapt(task: Task) -> dict[str, Any]:
    """Channels or vocabulary, and classes or width of the output, from the task's shapes."""
    size = (
        {"vocabulary": task.inputs.classes} if task.inputs.kind == "tokens" else {"in_features": task.inputs.shape[1]}
    )
    return {**size, "out_features": task.targets.classes or prod(task.targets.shape)}


FAMILY = register(
    Family(
        name="lru",
        module=LRU,
        config=LRUConfig,
        task="digits_sequence",
        accepts=frozenset({"sequence", "tokens"}),
        predicts=frozenset({"classes", "vector"}),
        adapt=adapt,
        paper=Paper("Resurrecting Recurrent Neural Networks for Long Sequences", "Orvieto et al.", 2023, "S054"),
        equation="s_t = λ s_{t-1} + exp(γ) B x_t, y_t = Re(C s_t) + D x_t, λ = exp(-exp(ν) + i exp(θ))",
        symmetry="S_state on the modes of every block with a complex scale per mode between B and C, part of which γ can "
        "carry; S_width along the residual stream",
        recipe=Recipe(steps=600, learning_rate=5e-3),
        tiny={"width": 12, "state": 8, "depth": 1},
        tiny_recipe=Recipe(steps=150, learning_rate=2e-2),
        margin=0.5,
        variants={"deep": {"depth": 4}},
    )
)
