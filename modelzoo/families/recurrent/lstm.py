"""The long short-term memory network."""

import itertools
from math import prod, sqrt
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from modelzoo.family import Family, FamilyConfig, Paper, Recipe, register
from modelzoo.kernels.population_lstm import population_lstm
from modelzoo.task import Task


class LSTMConfig(FamilyConfig):
    """Sizes of an `LSTM`; with a `vocabulary` the inputs are tokens, embedded in `in_features` dimensions."""

    in_features: int = Field(2, gt=0)
    vocabulary: int | None = Field(None, gt=0)
    hidden: tuple[int, ...] = Field((32,), min_length=1)
    out_features: int = Field(1, gt=0)


class LSTMLayer(nn.Module):
    """One LSTM layer with the packed weights and the initialisation of `torch.nn.LSTM`, as a loop that can be vmapped.

    (i, f, g, o) = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh, c_t = σ(f) c_{t-1} + σ(i) tanh(g), h_t = σ(o) tanh(c_t).

    Args:
        in_features: size of x_t.
        hidden: size h of the state.

    Shape:
        inputs `[B, T, in_features]`; outputs `[B, T, hidden]`; weights `[4h, in_features]` and `[4h, h]`.
    """

    in_one = False  # population training sets it: one operation instead of a loop that tracing can follow

    def __init__(self, in_features: int, hidden: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden, in_features))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden, hidden))
        self.bias_ih = nn.Parameter(torch.empty(4 * hidden))
        self.bias_hh = nn.Parameter(torch.empty(4 * hidden))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / sqrt(hidden), 1 / sqrt(hidden))

    def forward(self, x: Tensor) -> Tensor:
        if self.in_one:
            given = (x, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
            return population_lstm(*(tensor.unsqueeze(0) for tensor in given)).squeeze(0)
        driven = nn.functional.linear(x, self.weight_ih, self.bias_ih)  # [B, T, 4h], all time steps at once
        state = cell = x.new_zeros(len(x), self.weight_hh.shape[1])
        states = []
        for drive in driven.unbind(1):
            gates = drive + nn.functional.linear(state, self.weight_hh, self.bias_hh)
            write, keep, content, read = gates.chunk(4, -1)
            cell = keep.sigmoid() * cell + write.sigmoid() * content.tanh()
            state = read.sigmoid() * cell.tanh()
            states.append(state)
        return torch.stack(states, 1)


class LSTM(nn.Module):
    """Stacked long short-term memory layers, read out linearly from the last state.

    h = LSTMLayer_L ∘ … ∘ LSTMLayer_1 (x), y = W h_T + b.

    Shape:
        inputs `[B, T, in_features]`, or tokens `[B, T]`; outputs `[B, out_features]`.
    """

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary, config.in_features) if config.vocabulary else nn.Identity()
        sizes = (config.in_features, *config.hidden)
        self.layers = nn.Sequential(*[LSTMLayer(*pair) for pair in itertools.pairwise(sizes)])
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
        name="lstm",
        module=LSTM,
        config=LSTMConfig,
        task="adding",
        accepts=frozenset({"sequence", "tokens"}),
        predicts=frozenset({"classes", "vector"}),
        adapt=adapt,
        paper=Paper("Long Short-Term Memory", "Hochreiter and Schmidhuber", 1997),
        equation="c_t = σ(f) c_{t-1} + σ(i) tanh(g), h_t = σ(o) tanh(c_t), (i, f, g, o) = W x_t + U h_{t-1} + b",
        symmetry="signed permutations of every layer's units (all four gates move together), and shifts between b_ih and b_hh",
        recipe=Recipe(steps=600, learning_rate=1e-2, gradient_clip=1.0),
        tiny={"hidden": (12,)},
        tiny_recipe=Recipe(steps=500, learning_rate=3e-2, batch_size=32, gradient_clip=1.0),
        margin=0.08,
        variants={"deep": {"hidden": (32, 32)}},
    )
)
