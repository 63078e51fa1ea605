"""The gated recurrent unit network."""

import itertools
from math import prod, sqrt
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from modelzoo.family import Family, FamilyConfig, Paper, Recipe, register
from modelzoo.task import Task


class GRUConfig(FamilyConfig):
    """Sizes of a `GRU`; with a `vocabulary` the inputs are tokens, embedded in `in_features` dimensions."""

    in_features: int = Field(8, gt=0)
    vocabulary: int | None = Field(None, gt=0)
    hidden: tuple[int, ...] = Field((32,), min_length=1)
    out_features: int = Field(10, gt=0)


class GRULayer(nn.Module):
    """One GRU layer with the packed weights and the initialisation of `torch.nn.GRU`, as a loop that can be vmapped.

    With (a_r, a_z, a_n) = W_ih x_t + b_ih and (u_r, u_z, u_n) = W_hh h_{t-1} + b_hh:
    r = σ(a_r + u_r), z = σ(a_z + u_z), n = tanh(a_n + r u_n), h_t = (1 - z) n + z h_{t-1}.

    Args:
        in_features: size of x_t.
        hidden: size h of the state.

    Shape:
        inputs `[B, T, in_features]`; outputs `[B, T, hidden]`; weights `[3h, in_features]` and `[3h, h]`.
    """

    def __init__(self, in_features: int, hidden: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(3 * hidden, in_features))
        self.weight_hh = nn.Parameter(torch.empty(3 * hidden, hidden))
        self.bias_ih = nn.Parameter(torch.empty(3 * hidden))
        self.bias_hh = nn.Parameter(torch.empty(3 * hidden))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / sqrt(hidden), 1 / sqrt(hidden))

    def forward(self, x: Tensor) -> Tensor:
        driven = nn.functional.linear(x, self.weight_ih, self.bias_ih)  # [B, T, 3h], all time steps at once
        state = x.new_zeros(len(x), self.weight_hh.shape[1])
        states = []
        for drive in driven.unbind(1):
            drives = drive.chunk(3, -1)
            own = nn.functional.linear(state, self.weight_hh, self.bias_hh).chunk(3, -1)
            reset, keep = (drives[0] + own[0]).sigmoid(), (drives[1] + own[1]).sigmoid()
            content = (drives[2] + reset * own[2]).tanh()
            state = (1 - keep) * content + keep * state
            states.append(state)
        return torch.stack(states, 1)


class GRU(nn.Module):
    """Stacked gated recurrent units, read out linearly from the last state.

    h = GRULayer_L ∘ … ∘ GRULayer_1 (x), y = W h_T + b.

    Shape:
        inputs `[B, T, in_features]`, or tokens `[B, T]`; outputs `[B, out_features]`.
    """

    def __init__(self, config: GRUConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary, config.in_features) if config.vocabulary else nn.Identity()
        sizes = (config.in_features, *config.hidden)
        self.layers = nn.Sequential(*[GRULayer(*pair) for pair in itertools.pairwise(sizes)])
        self.head = nn.Linear(sizes[-1], config.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.embedding(x))[:, -1])


def adapt(task: Task) -> dict[str, Any]:
    """Channels or vocabulary, and classes or width of the output, from the task's shapes."""
    size = (
        {"vocabulary": task.inputs.classes} if task.inputs.kind == "tokens" else {"in_features": task.inputs.shape[1]}
    )
    return {**size, "out_features": task.targets.classes or prod(task.targets.shape)}


FAMILY = register(
    Family(
        name="gru",
        module=GRU,
        config=GRUConfig,
        task="digits_sequence",
        accepts=frozenset({"sequence", "tokens"}),
        predicts=frozenset({"classes", "vector"}),
        adapt=adapt,
        paper=Paper(
            "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation",
            "Cho et al.",
            2014,
        ),
        equation="h_t = (1 - z) n + z h_{t-1}, n = tanh(W_n x_t + b + r (U_n h_{t-1} + b')), r and z sigmoid gates",
        symmetry="signed permutations of every layer's units (all three gates move together), and shifts between the "
        "two biases of r and of z",
        recipe=Recipe(steps=600, learning_rate=1e-2, gradient_clip=1.0),
        tiny={"hidden": (12,)},
        tiny_recipe=Recipe(steps=150, learning_rate=2e-2, gradient_clip=1.0),
        margin=0.5,
        variants={"deep": {"hidden": (32, 32)}},
    )
)
