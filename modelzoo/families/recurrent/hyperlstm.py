"""The HyperLSTM: an LSTM whose weights are rescaled at every step by a smaller LSTM."""

from math import prod
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from modelzoo.family import Family, FamilyConfig, Paper, Recipe, register
from modelzoo.task import Task


class HyperLSTMConfig(FamilyConfig):
    """Sizes of a `HyperLSTM`.

    With a `vocabulary` the inputs are tokens, embedded in `in_features` dimensions; `hyper` is the size of the small LSTM,
    `embedding` that of z; with `every_step` there is an output at every time instead of the last one alone.
    """

    in_features: int = Field(8, gt=0)
    vocabulary: int | None = Field(None, gt=0)
    hidden: int = Field(32, gt=0)
    hyper: int = Field(16, gt=0)
    embedding: int = Field(4, gt=0)
    out_features: int = Field(10, gt=0)
    every_step: bool = False


class Rescalings(nn.Module):
    """d_h, d_x and the shift, each W_z z with z = W ĥ + b, for all four gates; d_h and d_x begin as the constant 0.1.

    Args:
        hyper: size of ĥ.
        embedding: size of z.
        hidden: units of the main network.

    Shape:
        input `[B, hyper]`; three outputs `[B, 4, hidden]`.
    """

    def __init__(self, hyper: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Linear(hyper, 12 * embedding)
        self.weight = nn.Parameter(torch.full((12, embedding, hidden), 0.1 / embedding))
        nn.init.normal_(self.embed.weight, std=0.01)
        nn.init.ones_(self.embed.bias[: 8 * embedding])
        nn.init.zeros_(self.embed.bias[8 * embedding :])
        nn.init.normal_(self.weight[8:], std=0.01)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        embedded = self.embed(state).unflatten(-1, (12, -1)).transpose(0, 1)  # [12, B, z]
        scale_h, scale_x, shift = torch.bmm(embedded, self.weight).transpose(0, 1).split(4, 1)
        return scale_h, scale_x, shift


class HyperLSTM(nn.Module):
    """A long short-term memory whose gates are rescaled by a hypernetwork that is itself a small LSTM.

    ĥ_t = LSTM([h_{t-1}; x_t]), (i, g, f, o) = LN(d_h(ĥ) ⊙ W_h h_{t-1} + d_x(ĥ) ⊙ W_x x_t + b(ĥ)), d(ĥ) = W_z (W ĥ + b),
    c_t = σ(f) c_{t-1} + σ(i) tanh(g), h_t = σ(o) tanh(LN(c_t)), read out linearly. Rescaling rows of W_h and W_x is what
    keeps a generated weight matrix at every step affordable.

    Shape:
        inputs `[B, T, in_features]`, or tokens `[B, T]`; outputs `[B, out_features]`, or `[B, T, out_features]`.
    """

    def __init__(self, config: HyperLSTMConfig) -> None:
        super().__init__()
        self.config = config
        hidden, hyper = config.hidden, config.hyper
        self.embedding = nn.Embedding(config.vocabulary, config.in_features) if config.vocabulary else nn.Identity()
        self.hyper_in = nn.Linear(hidden + config.in_features, 4 * hyper)
        self.hyper_state = nn.Linear(hyper, 4 * hyper, bias=False)
        self.rescalings = Rescalings(hyper, config.embedding, hidden)
        self.weight_x = nn.Parameter(torch.randn(4 * hidden, config.in_features) / config.in_features**0.5)
        self.weight_h = nn.Parameter(torch.cat([nn.init.orthogonal_(torch.empty(hidden, hidden)) for _ in range(4)]))
        self.bias = nn.Parameter(torch.zeros(4, hidden))
        self.gate_norm_weight = nn.Parameter(torch.ones(4, hidden))
        self.gate_norm_bias = nn.Parameter(torch.zeros(4, hidden))
        self.cell_norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, config.out_features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        state = cell = x.new_zeros(len(x), self.config.hidden)
        hyper = hyper_cell = x.new_zeros(len(x), self.config.hyper)
        driven = F.linear(x, self.weight_x).unflatten(-1, (4, -1))  # [B, T, 4, h], all time steps at once
        states = []
        for step, drive in zip(x.unbind(1), driven.unbind(1), strict=True):
            packed = self.hyper_in(torch.cat([state, step], -1)) + self.hyper_state(hyper)
            hyper, hyper_cell = _gated(packed.unflatten(-1, (4, -1)), hyper_cell, nn.Identity())
            scale_h, scale_x, shift = self.rescalings(hyper)
            own = F.linear(state, self.weight_h).unflatten(-1, (4, -1))
            gates = scale_h * own + scale_x * drive + shift + self.bias
            gates = F.layer_norm(gates, gates.shape[-1:]) * self.gate_norm_weight + self.gate_norm_bias
            state, cell = _gated(gates, cell, self.cell_norm)
            states.append(state)
        return self.head(torch.stack(states, 1) if self.config.every_step else states[-1])


def _gated(gates: Tensor, cell: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """New state and cell from (i, g, f, o) `[B, 4, hidden]`."""
    write, content, keep, read = gates.unbind(1)
    cell = keep.sigmoid() * cell + write.sigmoid() * content.tanh()
    return read.sigmoid() * norm(cell).tanh(), cell


def adapt(task: Task) -> dict[str, Any]:
    """Channels or vocabulary, and what is put out when, from the task's shapes."""
    size = (
        {"vocabulary": task.inputs.classes} if task.inputs.kind == "tokens" else {"in_features": task.inputs.shape[1]}
    )
    every = task.targets.kind == "tokens"
    return {**size, "out_features": task.targets.classes or prod(task.targets.shape), "every_step": every}


FAMILY = register(
    Family(
        name="hyperlstm",
        module=HyperLSTM,
        config=HyperLSTMConfig,
        task="digits_sequence",
        accepts=frozenset({"sequence", "tokens"}),
        predicts=frozenset({"classes", "vector", "tokens"}),
        adapt=adapt,
        paper=Paper("HyperNetworks", "Ha, Dai and Le", 2016, "S157"),
        equation="gates = LN(d_h(ĥ) ⊙ W_h h_{t-1} + d_x(ĥ) ⊙ W_x x_t + b(ĥ)), ĥ_t = LSTM([h_{t-1}; x_t])",
        symmetry="S_hidden, signed permutations of the small LSTM's units, GL(embedding) between every z and d",
        recipe=Recipe(steps=600, learning_rate=5e-3, gradient_clip=1.0),
        tiny={"hidden": 12, "hyper": 6, "embedding": 2},
        tiny_recipe=Recipe(steps=150, learning_rate=2e-2, batch_size=32, gradient_clip=1.0),
        margin=0.4,
    )
)
