"""Calls that torch makes in one piece, written out in operations whose parameters have layer products.

`nn.LSTM`, `nn.GRU`, `nn.RNN` and `nn.MultiheadAttention` are each one opaque call with all their parameters. Here they
are the linear maps and pointwise functions that they stand for, so that every matrix is a layer of the tangent kernel:
recurrent weights with one position a time step, packed projections as one matrix.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Call = Callable[[], Any]
Cell = Callable[[Tensor, list[Tensor], Callable[[Tensor], Tensor]], list[Tensor]]


def _lstm_cell(entered: Tensor, state: list[Tensor], recurrent: Callable[[Tensor], Tensor]) -> list[Tensor]:
    i, f, g, o = (entered + recurrent(state[0])).chunk(4, -1)
    c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return [o.sigmoid() * c.tanh(), c]


def _gru_cell(entered: Tensor, state: list[Tensor], recurrent: Callable[[Tensor], Tensor]) -> list[Tensor]:
    (ir, iz, new), (hr, hz, own) = entered.chunk(3, -1), recurrent(state[0]).chunk(3, -1)
    z = (iz + hz).sigmoid()
    return [(1 - z) * (new + (ir + hr).sigmoid() * own).tanh() + z * state[0]]


def _tanh_cell(entered: Tensor, state: list[Tensor], recurrent: Callable[[Tensor], Tensor]) -> list[Tensor]:
    return [(entered + recurrent(state[0])).tanh()]


def _relu_cell(entered: Tensor, state: list[Tensor], recurrent: Callable[[Tensor], Tensor]) -> list[Tensor]:
    return [(entered + recurrent(state[0])).relu()]


def _recurrent(cell: Cell) -> Callable[..., Call | None]:
    """The written-out form of a recurrent network; None for packed sequences, projections and dropout."""

    def unpacked(
        input: Any, start: Any, weights: Any, biased: Any, layers: Any = None, dropout: Any = 0.0, training: Any = False,
        bidirectional: Any = False, batch_first: Any = False,
    ) -> Call | None:  # fmt: skip
        own = 4 if biased is True else 2
        plain = isinstance(layers, int) and not isinstance(layers, bool) and isinstance(weights, list | tuple)
        directions = 2 if bidirectional else 1
        if not plain or len(weights) != own * layers * directions or (training and dropout) or input.ndim != 3:
            return None

        def run() -> Any:
            starts = list(start) if isinstance(start, list | tuple) else [start]
            x = input.transpose(0, 1) if batch_first else input  # [T, N, I]
            last: list[list[Tensor]] = []
            for layer in range(layers):
                sides = []
                for direction in range(directions):
                    place = layer * directions + direction
                    part = weights[own * place : own * (place + 1)]
                    entered = F.linear(x, part[0], part[2] if own == 4 else None)
                    state = [s[place] for s in starts]

                    def recurrent(h: Tensor, part: Any = part) -> Tensor:
                        return F.linear(h, part[1], part[3] if own == 4 else None)

                    outputs: list[Tensor] = []
                    for t in reversed(range(len(x))) if direction else range(len(x)):
                        state = cell(entered[t], state, recurrent)
                        outputs.append(state[0])
                    sides.append(torch.stack(outputs[::-1] if direction else outputs))
                    last.append(state)
                x = torch.cat(sides, -1)
            states = [torch.stack(parts) for parts in zip(*last, strict=True)]
            return (x.transpose(0, 1) if batch_first else x, *states)

        return run

    return unpacked


def _attention(
    query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int, in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None, bias_k: Tensor | None, bias_v: Tensor | None, add_zero_attn: bool, dropout_p: float,
    out_proj_weight: Tensor, out_proj_bias: Tensor | None, training: bool = True, key_padding_mask: Tensor | None = None,
    need_weights: bool = True, attn_mask: Tensor | None = None, use_separate_proj_weight: bool = False,
    average_attn_weights: bool = True, **others: Any,
) -> Call | None:  # fmt: skip
    """Attention, to itself or to other inputs; None for masks by sample and further options."""
    special = (bias_k, bias_v, key_padding_mask, others.get("static_k"), others.get("static_v"))
    shared = attn_mask is None or attn_mask.ndim == 2
    if not shared or add_zero_attn or query.ndim != 3 or any(part is not None for part in special) or (training and dropout_p):  # fmt: skip
        return None
    apart = [others[f"{role}_proj_weight"] for role in "qkv"] if use_separate_proj_weight else None

    def projected() -> list[Tensor]:
        # the packed weight and bias stay whole, so that they have products, and of what they give a third is read
        whole: dict[int, Tensor] = {}
        width = query.shape[-1]
        for entering in (query, key, value):
            if id(entering) not in whole:
                own = in_proj_weight if apart is None else entering.new_zeros(3 * width, entering.shape[-1])
                whole[id(entering)] = F.linear(entering, own, in_proj_bias)  # type: ignore[arg-type]
        parts = [whole[id(x)][..., place * width : (place + 1) * width] for place, x in enumerate((query, key, value))]
        if apart is None:
            return parts
        return [part + F.linear(x, w) for part, x, w in zip(parts, (query, key, value), apart, strict=True)]

    def run() -> tuple[Tensor, Tensor | None]:
        length, count, width = query.shape
        q, k, v = (x.reshape(len(x), count, num_heads, -1).permute(1, 2, 0, 3) for x in projected())
        scores = q @ k.mT / (width // num_heads) ** 0.5  # [N, heads, T, T']
        if attn_mask is not None:
            boolean = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(attn_mask, float("-inf")) if boolean else scores + attn_mask
        weights = scores.softmax(-1)
        mixed = (weights @ v).permute(2, 0, 1, 3).reshape(length, count, width)
        given = (weights.mean(1) if average_attn_weights else weights) if need_weights else None
        return F.linear(mixed, out_proj_weight, out_proj_bias), given

    return run


UNPACKED: dict[Any, Callable[..., Call | None]] = {
    torch.lstm: _recurrent(_lstm_cell), torch.gru: _recurrent(_gru_cell), torch.rnn_tanh: _recurrent(_tanh_cell),
    torch.rnn_relu: _recurrent(_relu_cell), F.multi_head_attention_forward: _attention,
}  # fmt: skip
