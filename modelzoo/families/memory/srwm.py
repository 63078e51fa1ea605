"""The self-referential weight matrix: a layer that rewrites all of its own weights at every step."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from modelzoo.family import Family, FamilyConfig, Paper, Recipe, register
from modelzoo.task import Task


class SRWMConfig(FamilyConfig):
    """Sizes of an `SRWM`.

    `frozen` stops all self-modification; with `delta` the matrix changes the rows of y alone, which is the delta rule of
    fast weight programmers: queries, keys and learning rates then come from fixed slow weights.
    """

    in_features: int = Field(13, gt=0)
    width: int = Field(32, gt=0)
    heads: int = Field(2, gt=0)
    layers: int = Field(1, gt=0)
    hidden: int = Field(32, gt=0)
    out_features: int = Field(5, gt=0)
    frozen: bool = False
    delta: bool = False


class SelfReferentialLayer(nn.Module):
    """(y, k, q, β)_t = W_{t-1} φ(x_t), W_t = W_{t-1} + σ(β_t) (W_{t-1} φ(q_t) - W_{t-1} φ(k_t)) ⊗ φ(k_t), φ = softmax.

    W maps d to d + 2d + 4 numbers and all of them are rewritten, with one learning rate for each of the four blocks of
    rows y, k, q and β; there is one such matrix a head, and only its first value W_0 is trained.

    Args:
        size: d, of a head's input and output.
        heads: number of matrices.
        frozen: σ(β) = 0.
        delta: σ(β) = 0 for the blocks k, q and β.

    Shape:
        inputs and outputs `[B, T, heads · size]`; W `[heads, 3d + 4, d]`.
    """

    rows: Tensor
    writes: Tensor

    def __init__(self, size: int, heads: int, frozen: bool = False, delta: bool = False) -> None:
        super().__init__()
        self.size, self.heads = size, heads
        # A key begins as a sharper copy of the input, so that what is written can be found again by a similar input.
        values, queries = torch.randn(heads, size, size), 6 * torch.randn(heads, size, size)
        keys = 8 * torch.eye(size).expand(heads, -1, -1)
        self.weight = nn.Parameter(torch.cat([2 * values, keys, queries, torch.randn(heads, 4, size)], 1))
        blocks = torch.tensor([0] * size + [1] * size + [2] * size + [3] * 4)
        self.register_buffer("rows", blocks, persistent=False)
        writes = torch.tensor([0.0 if frozen else 1.0, *[0.0 if frozen or delta else 1.0] * 3])
        self.register_buffer("writes", writes, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        inputs = x.unflatten(-1, (self.heads, self.size)).softmax(-1)  # [B, T, heads, d]
        weight = self.weight.expand(len(x), -1, -1, -1)  # [B, heads, 3d + 4, d]
        outputs = []
        for step in inputs.unbind(1):
            y, key, query, rates = (weight @ step[..., None])[..., 0].split([self.size, self.size, self.size, 4], -1)
            key, query = key.softmax(-1), query.softmax(-1)
            change = (weight @ (query - key)[..., None])[..., 0]
            rate = (rates.sigmoid() * self.writes)[..., self.rows]
            weight = weight + (rate * change)[..., None] * key[..., None, :]
            outputs.append(y)
        return torch.stack(outputs, 1).flatten(2)


class SRWM(nn.Module):
    """Blocks of a self-referential weight matrix and a two-layer perceptron, each on a normalised residual stream.

    h ← h + O SRWM(LN(h)), h ← h + W_2 relu(W_1 LN(h)), read out linearly at every step.

    Shape:
        inputs `[B, T, in_features]`; outputs `[B, T, out_features]`.
    """

    def __init__(self, config: SRWMConfig) -> None:
        super().__init__()
        width = config.width
        self.embedding = nn.Linear(config.in_features, width)
        branches: list[nn.Module] = []
        for _ in range(config.layers):
            matrix = SelfReferentialLayer(width // config.heads, config.heads, config.frozen, config.delta)
            branches.append(nn.Sequential(nn.LayerNorm(width), matrix, nn.Linear(width, width)))
            perceptron = (nn.Linear(width, config.hidden), nn.ReLU(), nn.Linear(config.hidden, width))
            branches.append(nn.Sequential(nn.LayerNorm(width), *perceptron))
        self.branches = nn.ModuleList(branches)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.out_features)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.embedding(x)
        for branch in self.branches:
            stream = stream + branch(stream)
        return self.head(self.norm(stream))


def adapt(task: Task) -> dict[str, Any]:
    """Channels and classes from the task's shapes."""
    return {"in_features": task.inputs.shape[1], "out_features": task.targets.classes}


FAMILY = register(
    Family(
        name="srwm",
        module=SRWM,
        config=SRWMConfig,
        task="few_shot",
        accepts=frozenset({"sequence"}),
        predicts=frozenset({"tokens"}),
        adapt=adapt,
        paper=Paper(
            "A Modern Self-Referential Weight Matrix That Learns to Modify Itself", "Irie, Schlag, Csordás and Schmidhuber", 2022, "S048"
        ),
        equation="(y, k, q, β) = W φ(x), W ← W + σ(β) (W φ(q) - W φ(k)) ⊗ φ(k)",
        symmetry="permutations of the heads and of a head's inputs together with its rows of keys and queries, S_hidden with scales",
        recipe=Recipe(steps=800, learning_rate=1e-2, batch_size=32, gradient_clip=1.0),
        tiny={"width": 24, "heads": 2, "hidden": 24},
        tiny_recipe=Recipe(steps=100, learning_rate=1e-2, batch_size=32, gradient_clip=1.0),
        margin=0.1,
        variants={"delta": {"delta": True}, "frozen": {"frozen": True}},
    )
)  # fmt: skip
