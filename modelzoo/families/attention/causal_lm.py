"""The decoder-only language model of today: RMSNorm, SwiGLU, grouped queries, rotary positions, tied embeddings."""

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from modelzoo.blocks.attention import MultiHeadAttention
from modelzoo.family import Family, FamilyConfig, Paper, Recipe, register
from modelzoo.task import Task


class CausalLMConfig(FamilyConfig):
    """Sizes of a `CausalLM`; learned `positions` reach as far as `length`, rotary ones have no end."""

    vocabulary: int = Field(96, gt=0)
    length: int = Field(32, gt=0)
    width: int = Field(64, gt=0)
    heads: int = Field(4, gt=0)
    key_value_heads: int = Field(2, gt=0)
    hidden: int = Field(128, gt=0)
    layers: int = Field(2, gt=0)
    positions: Literal["rotary", "learned"] = "rotary"

    @model_validator(mode="after")
    def _divides(self) -> "CausalLMConfig":
        if self.width % self.heads or self.heads % self.key_value_heads:
            raise ValueError("heads must divide width, and key_value_heads must divide heads")
        if self.positions == "rotary" and self.width // self.heads % 2:
            raise ValueError("rotary positions need heads of even size")
        return self


class SwiGLU(nn.Module):
    """Gated feed-forward layer, D (silu(G x) ⊙ U x) (Shazeer, GLU Variants Improve Transformer, 2020).

    Shape:
        inputs `[B, T, width]`; outputs `[B, T, width]`.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class DecoderBlock(nn.Module):
    """One layer: x ← x + attention(norm(x)), x ← x + SwiGLU(norm(x)).

    Shape:
        inputs `[B, T, width]`; outputs `[B, T, width]`.
    """

    def __init__(self, config: CausalLMConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width)
        self.attention = MultiHeadAttention(
            config.width,
            config.heads,
            config.key_value_heads,
            causal=True,
            rotary=config.positions == "rotary",
            bias=False,
        )
        self.feedforward_norm = nn.RMSNorm(config.width)
        self.feedforward = SwiGLU(config.width, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feedforward(self.feedforward_norm(x))


class CausalLM(nn.Module):
    """Decoder-only transformer that predicts the next token at every position.

    h = E[x], then per layer h ← h + attention(RMS(h)), h ← h + D (silu(G RMS(h)) ⊙ U RMS(h)); logits = E RMS(h), with
    the embedding E at both ends.

    Shape:
        tokens `[B, T]`; outputs `[B, T, vocabulary]`, those at position t from tokens up to t.
    """

    def __init__(self, config: CausalLMConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocabulary, config.width)
        nn.init.normal_(self.embed.weight, std=config.width**-0.5)  # logits of order one
        self.positions = (
            nn.Parameter(config.width**-0.5 * torch.randn(config.length, config.width))
            if config.positions == "learned"
            else None
        )
        self.layers = nn.Sequential(*(DecoderBlock(config) for _ in range(config.layers)))
        self.norm = nn.RMSNorm(config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens)
        if self.positions is not None:
            h = h + self.positions[: tokens.shape[1]]
        return F.linear(self.norm(self.layers(h)), self.embed.weight)


def adapt(task: Task) -> dict[str, Any]:
    """Vocabulary and length from the task's shapes."""
    return {"vocabulary": task.inputs.classes, "length": task.inputs.shape[0]}


FAMILY = register(
    Family(
        name="causal_lm",
        module=CausalLM,
        config=CausalLMConfig,
        task="characters",
        accepts=frozenset({"tokens"}),
        predicts=frozenset({"tokens"}),
        adapt=adapt,
        paper=Paper("LLaMA: Open and Efficient Foundation Language Models", "Touvron et al.", 2023),
        equation="h ← h + attention(RMS(h)), h ← h + D (silu(G RMS(h)) ⊙ U RMS(h)), logits = E RMS(h)",
        symmetry=(
            "signed permutations of the residual stream, S_hidden with one scale per unit between U and D, permutations "
            "of the key groups and of the queries within one, GL(d) between values and outputs; in queries and keys only "
            "scaled rotations of each rotary pair"
        ),
        recipe=Recipe(steps=500, batch_size=32),
        tiny={"width": 16, "heads": 2, "key_value_heads": 1, "hidden": 24, "layers": 1},
        tiny_recipe=Recipe(steps=150, learning_rate=1e-2, batch_size=32),
        margin=0.4,
        variants={"learned_positions": {"positions": "learned"}, "multi_query": {"key_value_heads": 1}},
    )
)
