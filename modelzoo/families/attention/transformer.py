"""The transformer encoder with normalization before every sublayer."""

from math import prod
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from modelzoo.blocks.attention import EncoderBlock
from modelzoo.family import Family, FamilyConfig, Paper, Recipe, register
from modelzoo.task import Task


class TransformerConfig(FamilyConfig):
    """Sizes of a `Transformer`; with a `vocabulary` it reads tokens instead of vectors of `in_features`."""

    in_features: int = Field(8, gt=0)
    vocabulary: int | None = Field(None, gt=0)
    length: int = Field(8, gt=0)
    width: int = Field(32, gt=0)
    heads: int = Field(4, gt=0)
    hidden: int = Field(64, gt=0)
    layers: int = Field(2, gt=0)
    out_features: int = Field(10, gt=0)

    @model_validator(mode="after")
    def _divides(self) -> "TransformerConfig":
        if self.width % self.heads:
            raise ValueError("heads must divide width")
        return self


class Transformer(nn.Module):
    """Pre-norm transformer encoder with learned positions and mean pooling.

    h = E x + p, then per layer h ← h + attention(LN(h)), h ← h + W_2 gelu(W_1 LN(h)); y = W LN(h) averaged over time.

    Shape:
        inputs `[B, T, in_features]`, or tokens `[B, T]`, with T at most `length`; outputs `[B, out_features]`.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        if config.vocabulary is None:
            self.embed: nn.Module = nn.Linear(config.in_features, config.width)
        else:
            self.embed = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Parameter(0.1 * torch.randn(config.length, config.width))
        self.layers = nn.Sequential(
            *(EncoderBlock(config.width, config.heads, config.hidden) for _ in range(config.layers))
        )
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.out_features)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.positions[: x.shape[1]]
        return self.head(self.norm(self.layers(h)).mean(1))


def adapt(task: Task) -> dict[str, Any]:
    """Length and sizes from the task's shapes."""
    fields = {"length": task.inputs.shape[0], "out_features": task.targets.classes or prod(task.targets.shape)}
    if task.inputs.kind == "tokens":
        return {**fields, "vocabulary": task.inputs.classes}
    return {**fields, "in_features": task.inputs.shape[1]}


FAMILY = register(
    Family(
        name="transformer",
        module=Transformer,
        config=TransformerConfig,
        task="digits_sequence",
        accepts=frozenset({"sequence", "tokens"}),
        predicts=frozenset({"classes", "vector"}),
        adapt=adapt,
        paper=Paper("Attention Is All You Need", "Vaswani et al.", 2017),
        equation="h ← h + attention(LN(h)), h ← h + W_2 gelu(W_1 LN(h))",
        symmetry=(
            "S_width of the residual stream, S_hidden in every feed-forward layer, S_heads, and in every head GL(d) "
            "between queries and keys and GL(d) between values and outputs, whose biases add up"
        ),
        recipe=Recipe(steps=500, learning_rate=2e-3),
        tiny={"width": 16, "heads": 2, "hidden": 24, "layers": 1},
        tiny_recipe=Recipe(steps=150, learning_rate=1e-2, batch_size=48),
        margin=0.4,
        variants={"deep": {"layers": 4}},
    )
)
