"""Multi-head attention and the encoder layer around it, written out to be vmapped over models and traced op by op."""

from math import sqrt

import torch
from einops import rearrange
from torch import Tensor, nn


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with several heads, optionally causal, grouped-query and with rotary positions.

    A_h = softmax(Q_h K_{g(h)}ᵀ / √d), y = O concat_h(A_h V_{g(h)}), where `heads / key_value_heads` neighbouring query
    heads share one key and value head (Vaswani et al., Attention Is All You Need, 2017; Ainslie et al., GQA: Training
    Generalized Multi-Query Transformer Models from Multi-Head Checkpoints, 2023).

    Args:
        width: features in and out; `heads` must divide it.
        heads: number of query heads.
        key_value_heads: number of key and value heads, a divisor of `heads`; None for one per query head.
        causal: whether position t sees positions up to t only.
        rotary: whether queries and keys are turned by their position.
        bias: whether queries, values and outputs have biases; a key bias would add the same to all scores of a query,
            which softmax takes out again.

    Raises:
        ValueError: sizes that do not divide.

    Shape:
        inputs `[B, T, width]`; outputs `[B, T, width]`.
    """

    def __init__(
        self, width: int, heads: int, key_value_heads: int | None = None, causal: bool = False, rotary: bool = False,
        bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        groups = key_value_heads or heads
        if width % heads or heads % groups or (rotary and width // heads % 2):
            raise ValueError(
                f"width {width}, heads {heads} and key_value_heads {groups} do not divide"
                + (", or a rotary head is of odd size" if rotary else "")
            )
        self.heads, self.groups, self.causal, self.rotary = heads, groups, causal, rotary
        size = width // heads
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(width, groups * size, bias=False)
        self.value = nn.Linear(width, groups * size, bias=bias)
        self.output = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        query = rearrange(self.query(x), "b t (g r d) -> b g r t d", g=self.groups, r=self.heads // self.groups)
        key = rearrange(self.key(x), "b s (g d) -> b g 1 s d", g=self.groups)
        value = rearrange(self.value(x), "b s (g d) -> b g 1 s d", g=self.groups)
        if self.rotary:
            query, key = rotate(query), rotate(key)
        scores = query @ key.transpose(-1, -2) / sqrt(query.shape[-1])  # [B, g, r, T, S]
        if self.causal:
            future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(future, -torch.inf)
        mixed = scores.softmax(-1) @ value
        return self.output(rearrange(mixed, "b g r t d -> b t (g r d)"))


class EncoderBlock(nn.Module):
    """One pre-norm layer: x ← x + attention(LN(x)), x ← x + W_2 gelu(W_1 LN(x)).

    Shape:
        inputs `[B, T, width]`; outputs `[B, T, width]`.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, heads)
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feedforward(self.feedforward_norm(x))


def rotate(x: Tensor, base: float = 10_000.0) -> Tensor:
    """Rotary position embedding: the pair (x_i, x_{i+d/2}) of position t is turned by the angle t · base^(-2i/d).

    Scores of turned queries and keys depend on the difference of their positions alone (Su et al., RoFormer: Enhanced
    Transformer with Rotary Position Embedding, 2021).

    Args:
        x: `[..., T, d]`, d even.
        base: sets the longest wavelength.

    Returns:
        `[..., T, d]`.
    """
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, dtype=x.dtype, device=x.device) / half)
    angle = torch.arange(x.shape[-2], dtype=x.dtype, device=x.device)[:, None] * frequency  # [T, d/2]
    first, second = x[..., :half], x[..., half:]
    cosine, sine = angle.cos(), angle.sin()
    return torch.cat([cosine * first - sine * second, sine * first + cosine * second], -1)
