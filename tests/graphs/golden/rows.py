"""The whole symmetry group of every architecture, worked out by hand and confirmed by functional dimension.

A table has one line a factor: the group, "in" the group of the blocks it lies in (a wreath product), and the dimensions
it acts on. What to look for, by subject:

* permutations are absent where they are contained in GL: the stream of a residual MLP without norm carries GL(6), not S_6;
* a transformer's translations are the key bias (softmax), the value bias (into the output bias), biases and rows of
  weights under the mean subtraction of layer norm, and biases across residual connections;
* LSTM and GRU carry a sign a unit (tanh is odd, gates are not touched): with S_h that is Z2 wr S_h in every layer, and
  the two biases of a gate are one (but not of the GRU's new gate, where the reset gate stands between them);
* in grouped-query attention every key/value head has one GL for queries and keys, one for values and outputs, which act
  on all query heads of the group;
* a mixer's first gain is shared by all hidden tokens: one scale and one sign for all its channels, and one sign of the
  whole stream, which every gain takes back;
* a SIREN carries whole periods of its biases, Z a unit; a bilinear layer two scales and two signs a unit, and the swap.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tests.graphs import architectures as a
from tests.graphs.scalings.subjects import SUBJECTS
from tests.graphs.test_permutations import real


@dataclass(frozen=True)
class Row:
    """One architecture.

    Args:
        dimension: of its group.
        parameters: real scalars, with state buffers.
        table: its factors.
        like: the row of the table of permutations with the same module; else `make` and `inputs` are given.
        make: the module.
        inputs: of one call.
        seed: of the weights.
        hidden: directions at these weights that change nothing and are in no group; None: depends on the weights.
    """

    dimension: int
    parameters: int
    table: str
    like: str = ""
    make: Callable[[], nn.Module] = nn.Identity
    inputs: Callable[[], tuple[Any, ...]] = tuple
    seed: int = 0
    hidden: int | None = 0


def read(table: str) -> Counter[tuple[str, frozenset[str]]]:
    """(group, dimensions) of every line; a backslash joins lines."""
    found = []
    for line in table.replace("\\\n", " ").strip().splitlines():
        words = line.replace(", ", ",").split()
        kind = " ".join(words[:3]) if words[1] == "in" else words[0]
        found.append((kind, frozenset(word.replace(",", ", ") for word in words[len(kind.split()) :])))
    return Counter(found)


# Small ReLU networks have units that are always on or off at random weights, which adds hidden directions (GIN); the
# seeds of the others are such that they have none. The two ends of a network are at least as wide as what lies between,
# else parts of weights are not seen: so it is with the encoder, whose hidden directions have a test of their own. ε of the
# GCN is not read: one hidden direction.
ROWS = {
    "mlp, relu": Row(
        16, 122, like="mlp", table="""
        R+^8 0.bias[0] 0.weight[0] 2.weight[1]
        R+^8 2.bias[0] 2.weight[0] 4.weight[1]
        S_8 0.bias[0] 0.weight[0] 2.weight[1]
        S_8 2.bias[0] 2.weight[0] 4.weight[1]
    """),
    "mlp, tanh": Row(
        0, 122, make=lambda: a.mlp(3, 8, 8, 2, activation=nn.Tanh), inputs=real(2, 3), table="""
        S_8 0.bias[0] 0.weight[0] 2.weight[1]
        S_8 2.bias[0] 2.weight[0] 4.weight[1]
        Z2^8 0.bias[0] 0.weight[0] 2.weight[1]
        Z2^8 2.bias[0] 2.weight[0] 4.weight[1]
    """),
    "mlp, gelu": Row(
        0, 122, make=lambda: a.mlp(3, 8, 8, 2, activation=nn.GELU), inputs=real(2, 3), table="""
        S_8 0.bias[0] 0.weight[0] 2.weight[1]
        S_8 2.bias[0] 2.weight[0] 4.weight[1]
    """),
    "residual mlp": Row(
        64, 252, make=lambda: a.residual_mlp(ends=(8, 8)), inputs=real(2, 8), table="""
        GL(6) 0.bias[0] 0.weight[0] 1.inner.0.weight[1] 1.inner.2.bias[0] 1.inner.2.weight[0] 2.inner.0.weight[1] \\
            2.inner.2.bias[0] 2.inner.2.weight[0] 3.weight[1]
        R+^5 1.inner.0.bias[0] 1.inner.0.weight[0] 1.inner.2.weight[1]
        R+^5 2.inner.0.bias[0] 2.inner.0.weight[0] 2.inner.2.weight[1]
        S_5 1.inner.0.bias[0] 1.inner.0.weight[0] 1.inner.2.weight[1]
        S_5 2.inner.0.bias[0] 2.inner.0.weight[0] 2.inner.2.weight[1]
        translation^6 0.bias[0] 1.inner.0.bias[0] 1.inner.2.bias[0]
        translation^6 1.inner.2.bias[0] 2.inner.0.bias[0] 2.inner.2.bias[0]
        translation^6 2.inner.2.bias[0] 3.bias[0]
    """),
    "cnn": Row(
        26, 233, like="cnn", table="""
        R+^18 0.bias[0] 0.weight[0] 1.bias[0] 1.running_mean[0] 1.running_var[0] 1.weight[0] 4.bias[0] 4.weight[0] \\
            4.weight[1] 7.weight[1]
        S_4 0.bias[0] 0.weight[0] 1.bias[0] 1.running_mean[0] 1.running_var[0] 1.weight[0] 4.weight[1]
        S_6 4.bias[0] 4.weight[0] 7.weight[1]
        Z2^4 0.bias[0] 0.weight[0] 1.running_mean[0] 1.weight[0]
        translation^4 0.bias[0] 1.bias[0]
        translation^4 1.bias[0] 1.running_mean[0]
    """),
    "depthwise separable": Row(
        34, 112, make=a.separable_cnn, inputs=real(2, 2, 5, 5), seed=1, table="""
        R+^22 0.bias[0] 0.weight[0] 1.bias[0] 1.weight[0] 2.bias[0] 2.running_mean[0] 2.running_var[0] 2.weight[0] \\
            4.bias[0] 4.weight[0] 4.weight[1] 8.weight[1]
        S_4 0.bias[0] 0.weight[0] 1.bias[0] 1.weight[0] 2.bias[0] 2.running_mean[0] 2.running_var[0] 2.weight[0] \\
            4.weight[1]
        S_6 4.bias[0] 4.weight[0] 8.weight[1]
        Z2^8 0.bias[0] 0.weight[0] 1.bias[0] 1.weight[0] 2.running_mean[0] 2.weight[0]
        translation^4 0.bias[0] 1.bias[0]
        translation^4 1.bias[0] 2.bias[0]
        translation^4 2.bias[0] 2.running_mean[0]
    """),
    "grouped": Row(
        16, 347, like="grouped", table="""
        R+^16 0.bias[0] 0.weight[0] 2.bias[0] 2.weight[0] 2.weight[1] 5.weight[1]
        S_2 0.bias[0] 0.weight[0] 2.bias[0] 2.weight[0] 5.weight[1]
        S_4^2 in S_2 0.bias[0] 0.weight[0] 2.weight[1]
        S_4^2 in S_2 2.bias[0] 2.weight[0] 5.weight[1]
    """),
    "encoder layer, relu": Row(
        290, 2224, like="encoder layer", table="""
        GL(4)^4 self_attn.in_proj_bias[0] self_attn.in_proj_weight[0]
        GL(4)^4 self_attn.in_proj_bias[0] self_attn.in_proj_weight[0] self_attn.out_proj.weight[1]
        R+^32 linear1.bias[0] linear1.weight[0] linear2.weight[1]
        S_32 linear1.bias[0] linear1.weight[0] linear2.weight[1]
        S_4 self_attn.in_proj_bias[0] self_attn.in_proj_weight[0] self_attn.out_proj.weight[1]
        Z2 linear1.weight[1] linear2.bias[0] linear2.weight[0] norm1.bias[0] norm1.weight[0] norm2.weight[0]
        translation linear1.bias[0] norm1.bias[0]
        translation self_attn.out_proj.bias[0]
        translation^16 linear1.bias[0] linear2.bias[0] norm1.bias[0]
        translation^16 self_attn.in_proj_bias[0]
        translation^16 self_attn.in_proj_bias[0] self_attn.out_proj.bias[0]
        translation^16 self_attn.out_proj.weight[0, 1]
        translation^32 linear1.bias[0] linear1.weight[0, 1]
        translation^32 linear2.weight[0, 1]
    """),
    "encoder layer, gelu": Row(
        258, 2224, make=lambda: nn.TransformerEncoderLayer(16, 4, 32, activation="gelu", batch_first=True), inputs=real(2, 5, 16), table="""
        GL(4)^4 self_attn.in_proj_bias[0] self_attn.in_proj_weight[0]
        GL(4)^4 self_attn.in_proj_bias[0] self_attn.in_proj_weight[0] self_attn.out_proj.weight[1]
        S_32 linear1.bias[0] linear1.weight[0] linear2.weight[1]
        S_4 self_attn.in_proj_bias[0] self_attn.in_proj_weight[0] self_attn.out_proj.weight[1]
        Z2 linear1.weight[1] linear2.bias[0] linear2.weight[0] norm1.bias[0] norm1.weight[0] norm2.weight[0]
        translation linear1.bias[0] norm1.bias[0]
        translation self_attn.out_proj.bias[0]
        translation^16 linear1.bias[0] linear2.bias[0] norm1.bias[0]
        translation^16 self_attn.in_proj_bias[0]
        translation^16 self_attn.in_proj_bias[0] self_attn.out_proj.bias[0]
        translation^16 self_attn.out_proj.weight[0, 1]
        translation^32 linear1.bias[0] linear1.weight[0, 1]
        translation^32 linear2.weight[0, 1]
    """),
    "encoder": Row(
        340, 2322, like="encoder", hidden=None, table="""
        GL(4)^4 layer.self_attn.in_proj_bias[0] layer.self_attn.in_proj_weight[0]
        GL(4)^4 layer.self_attn.in_proj_bias[0] layer.self_attn.in_proj_weight[0] layer.self_attn.out_proj.weight[1]
        R+^16 head.weight[1] layer.norm2.bias[0] layer.norm2.weight[0]
        R+^32 layer.linear1.bias[0] layer.linear1.weight[0] layer.linear2.weight[1]
        S_16 embed.bias[0] embed.weight[0] head.weight[1] layer.linear1.weight[1] layer.linear2.bias[0] \\
            layer.linear2.weight[0] layer.norm1.bias[0] layer.norm1.weight[0] layer.norm2.bias[0] \\
            layer.norm2.weight[0] layer.self_attn.in_proj_weight[1] layer.self_attn.out_proj.bias[0] \\
            layer.self_attn.out_proj.weight[0]
        S_32 layer.linear1.bias[0] layer.linear1.weight[0] layer.linear2.weight[1]
        S_4 layer.self_attn.in_proj_bias[0] layer.self_attn.in_proj_weight[0] layer.self_attn.out_proj.weight[1]
        Z2^18 embed.bias[0] embed.weight[0] head.weight[1] layer.linear1.weight[0] layer.linear2.bias[0] \\
            layer.linear2.weight[0] layer.norm1.bias[0] layer.norm1.weight[0] layer.norm2.bias[0] \\
            layer.norm2.weight[0] layer.self_attn.in_proj_weight[1] layer.self_attn.out_proj.bias[0] \\
            layer.self_attn.out_proj.weight[0]
        translation layer.linear1.bias[0] layer.norm1.bias[0]
        translation layer.self_attn.out_proj.bias[0]
        translation^16 embed.bias[0] layer.self_attn.in_proj_bias[0] layer.self_attn.out_proj.bias[0]
        translation^16 head.bias[0] layer.norm2.bias[0]
        translation^16 layer.linear1.bias[0] layer.linear2.bias[0] layer.norm1.bias[0]
        translation^16 layer.self_attn.in_proj_bias[0]
        translation^16 layer.self_attn.in_proj_bias[0] layer.self_attn.out_proj.bias[0]
        translation^16 layer.self_attn.out_proj.weight[0, 1]
        translation^2 head.bias[0] head.weight[0, 1]
        translation^32 layer.linear1.bias[0] layer.linear1.weight[0, 1]
        translation^32 layer.linear2.weight[0, 1]
    """),
    "decoder": Row(
        38, 448, make=a.Decoder, inputs=lambda: (torch.arange(11).repeat(2).reshape(2, 11),), table="""
        GL(2)^2 key.weight[0] query.weight[0]
        GL(2)^2 out.weight[1] value.weight[0]
        R+^6 down.weight[1] up.weight[0]
        R+^8 gate.weight[1] norm2.weight[0] up.weight[1]
        R+^8 key.weight[1] norm.weight[0] query.weight[1] value.weight[1]
        S_2 key.weight[0] out.weight[1] query.weight[0] value.weight[0]
        S_2^2 in S_2 out.weight[1] query.weight[0]
        S_6 down.weight[1] gate.weight[0] up.weight[0]
        S_8 down.weight[0] embedding.weight[1] gate.weight[1] key.weight[1] norm.weight[0] norm2.weight[0] \\
            norm3.weight[0] out.weight[0] query.weight[1] up.weight[1] value.weight[1]
        Z2^30 down.weight[0] down.weight[1] embedding.weight[0] embedding.weight[1] gate.weight[0] gate.weight[1] \\
            key.weight[1] norm.weight[0] norm2.weight[0] out.weight[0] query.weight[1] up.weight[0] up.weight[1] \\
            value.weight[1]
    """),
    "lstm, two layers": Row(
        32, 314, like="lstm", table="""
        S_4 head.weight[1] recurrent.bias_hh_l1[0] recurrent.bias_ih_l1[0] recurrent.weight_hh_l1[0] \\
            recurrent.weight_hh_l1[1] recurrent.weight_ih_l1[0]
        S_4 recurrent.bias_hh_l0[0] recurrent.bias_ih_l0[0] recurrent.weight_hh_l0[0] recurrent.weight_hh_l0[1] \\
            recurrent.weight_ih_l0[0] recurrent.weight_ih_l1[1]
        Z2^4 head.weight[1] recurrent.bias_hh_l1[0] recurrent.bias_ih_l1[0] recurrent.weight_hh_l1[0] \\
            recurrent.weight_hh_l1[1] recurrent.weight_ih_l1[0]
        Z2^4 recurrent.bias_hh_l0[0] recurrent.bias_ih_l0[0] recurrent.weight_hh_l0[0] recurrent.weight_hh_l0[1] \\
            recurrent.weight_ih_l0[0] recurrent.weight_ih_l1[1]
        translation^16 recurrent.bias_hh_l0[0] recurrent.bias_ih_l0[0]
        translation^16 recurrent.bias_hh_l1[0] recurrent.bias_ih_l1[0]
    """),
    "lstm, both directions": Row(
        32, 306, make=lambda: a.Readout(nn.LSTM(3, 4, 1, bidirectional=True), 8), inputs=real(4, 2, 3), table="""
        S_4 head.weight[1] recurrent.bias_hh_l0[0] recurrent.bias_ih_l0[0] recurrent.weight_hh_l0[0] \\
            recurrent.weight_hh_l0[1] recurrent.weight_ih_l0[0]
        S_4 head.weight[1] recurrent.bias_hh_l0_reverse[0] recurrent.bias_ih_l0_reverse[0] \\
            recurrent.weight_hh_l0_reverse[0] recurrent.weight_hh_l0_reverse[1] recurrent.weight_ih_l0_reverse[0]
        Z2^8 head.weight[1] recurrent.bias_hh_l0[0] recurrent.bias_hh_l0_reverse[0] recurrent.bias_ih_l0[0] \\
            recurrent.bias_ih_l0_reverse[0] recurrent.weight_hh_l0[0] recurrent.weight_hh_l0[1] \\
            recurrent.weight_hh_l0_reverse[0] recurrent.weight_hh_l0_reverse[1] recurrent.weight_ih_l0[0] \\
            recurrent.weight_ih_l0_reverse[0]
        translation^16 recurrent.bias_hh_l0[0] recurrent.bias_ih_l0[0]
        translation^16 recurrent.bias_hh_l0_reverse[0] recurrent.bias_ih_l0_reverse[0]
    """),
    "gru, two layers": Row(
        16, 238, like="gru", table="""
        S_4 head.weight[1] recurrent.bias_hh_l1[0] recurrent.bias_ih_l1[0] recurrent.weight_hh_l1[0] \\
            recurrent.weight_hh_l1[1] recurrent.weight_ih_l1[0]
        S_4 recurrent.bias_hh_l0[0] recurrent.bias_ih_l0[0] recurrent.weight_hh_l0[0] recurrent.weight_hh_l0[1] \\
            recurrent.weight_ih_l0[0] recurrent.weight_ih_l1[1]
        Z2^4 head.weight[1] recurrent.bias_hh_l1[0] recurrent.bias_ih_l1[0] recurrent.weight_hh_l1[0] \\
            recurrent.weight_hh_l1[1] recurrent.weight_ih_l1[0]
        Z2^4 recurrent.bias_hh_l0[0] recurrent.bias_ih_l0[0] recurrent.weight_hh_l0[0] recurrent.weight_hh_l0[1] \\
            recurrent.weight_ih_l0[0] recurrent.weight_ih_l1[1]
        translation^4 recurrent.bias_hh_l0[0] recurrent.bias_ih_l0[0]
        translation^4 recurrent.bias_hh_l0[0] recurrent.bias_ih_l0[0]
        translation^4 recurrent.bias_hh_l1[0] recurrent.bias_ih_l1[0]
        translation^4 recurrent.bias_hh_l1[0] recurrent.bias_ih_l1[0]
    """),
    "gru, both directions": Row(
        16, 234, like="gru, both directions", table="""
        S_4 head.weight[1] recurrent.bias_hh_l0[0] recurrent.bias_ih_l0[0] recurrent.weight_hh_l0[0] \\
            recurrent.weight_hh_l0[1] recurrent.weight_ih_l0[0]
        S_4 head.weight[1] recurrent.bias_hh_l0_reverse[0] recurrent.bias_ih_l0_reverse[0] \\
            recurrent.weight_hh_l0_reverse[0] recurrent.weight_hh_l0_reverse[1] recurrent.weight_ih_l0_reverse[0]
        Z2^8 head.weight[1] recurrent.bias_hh_l0[0] recurrent.bias_hh_l0_reverse[0] recurrent.bias_ih_l0[0] \\
            recurrent.bias_ih_l0_reverse[0] recurrent.weight_hh_l0[0] recurrent.weight_hh_l0[1] \\
            recurrent.weight_hh_l0_reverse[0] recurrent.weight_hh_l0_reverse[1] recurrent.weight_ih_l0[0] \\
            recurrent.weight_ih_l0_reverse[0]
        translation^4 recurrent.bias_hh_l0[0] recurrent.bias_ih_l0[0]
        translation^4 recurrent.bias_hh_l0[0] recurrent.bias_ih_l0[0]
        translation^4 recurrent.bias_hh_l0_reverse[0] recurrent.bias_ih_l0_reverse[0]
        translation^4 recurrent.bias_hh_l0_reverse[0] recurrent.bias_ih_l0_reverse[0]
    """),
    "elman, relu": Row(
        16, 86, like="elman", table="""
        R+^4 head.weight[1] recurrent.bias_hh_l1[0] recurrent.bias_ih_l1[0] recurrent.weight_hh_l1[0] \\
            recurrent.weight_hh_l1[1] recurrent.weight_ih_l1[0]
        R+^4 recurrent.bias_hh_l0[0] recurrent.bias_ih_l0[0] recurrent.weight_hh_l0[0] recurrent.weight_hh_l0[1] \\
            recurrent.weight_ih_l0[0] recurrent.weight_ih_l1[1]
        S_4 head.weight[1] recurrent.bias_hh_l1[0] recurrent.bias_ih_l1[0] recurrent.weight_hh_l1[0] \\
            recurrent.weight_hh_l1[1] recurrent.weight_ih_l1[0]
        S_4 recurrent.bias_hh_l0[0] recurrent.bias_ih_l0[0] recurrent.weight_hh_l0[0] recurrent.weight_hh_l0[1] \\
            recurrent.weight_ih_l0[0] recurrent.weight_ih_l1[1]
        translation^4 recurrent.bias_hh_l0[0] recurrent.bias_ih_l0[0]
        translation^4 recurrent.bias_hh_l1[0] recurrent.bias_ih_l1[0]
    """),
    "complex diagonal recurrence": Row(
        8, 48, make=a.ComplexDiagonal, inputs=real(2, 14, 3), table="""
        R+^4 input[0] output[1]
        S_4 angle[0] input[0] output[1] radius[0]
        U(1)^4 input[0] output[1]
    """),
    "recurrent unit": Row(
        15, 78, make=lambda: SUBJECTS["recurrent unit"]()[0], inputs=real(2, 14, 3), table="""
        R+^10 b[0] c[1] gamma[0]
        S_5 b[0] c[1] gamma[0] nu[0] theta[0]
        U(1)^5 b[0] c[1]
    """),
    "mixer": Row(
        30, 88, make=a.mixer, inputs=real(2, 2, 4), table="""
        R+ 1.token_mixing.0.weight[0] 1.token_norm.bias[0] 1.token_norm.weight[0]
        R+^3 1.channel_mixing.0.weight[1] 1.channel_norm.bias[0] 1.channel_norm.weight[0]
        R+^3 2.bias[0] 2.weight[0] 3.weight[1]
        S_3 0.bias[0] 0.weight[0] 1.channel_mixing.0.weight[1] 1.channel_mixing.2.bias[0] 1.channel_mixing.2.weight[0] \\
            1.channel_norm.bias[0] 1.channel_norm.weight[0] 1.token_norm.bias[0] 1.token_norm.weight[0] 2.bias[0] \\
            2.weight[0] 3.weight[1]
        S_3 1.channel_mixing.0.bias[0] 1.channel_mixing.0.weight[0] 1.channel_mixing.2.weight[1]
        S_3 1.token_mixing.0.bias[0] 1.token_mixing.0.weight[0] 1.token_mixing.2.weight[1]
        Z2^8 0.bias[0] 0.weight[0] 1.channel_mixing.0.weight[1] 1.channel_mixing.2.bias[0] 1.channel_mixing.2.weight[0] \\
            1.channel_norm.bias[0] 1.channel_norm.weight[0] 1.token_mixing.0.weight[0] 1.token_mixing.2.weight[0] \\
            1.token_norm.bias[0] 1.token_norm.weight[0] 2.bias[0] 2.weight[0] 3.weight[1]
        translation 0.bias[0] 1.channel_mixing.2.bias[0]
        translation 1.channel_mixing.2.bias[0]
        translation 1.token_mixing.0.bias[0] 1.token_norm.bias[0]
        translation^3 1.channel_mixing.0.bias[0] 1.channel_mixing.0.weight[0, 1]
        translation^3 1.channel_mixing.0.bias[0] 1.channel_norm.bias[0]
        translation^3 1.channel_mixing.2.weight[0, 1]
        translation^3 2.bias[0] 3.bias[0]
        translation^4 0.weight[0, 1]
        translation^4 3.bias[0] 3.weight[0, 1]
    """),
    "low rank": Row(
        9, 27, like="low rank", table="""
        GL(3) u[1] v[0]
    """),
    "deep linear": Row(
        40, 46, like="deep linear", table="""
        GL(4) 0.bias[0] 0.weight[0] 2.weight[1]
        GL(4) 2.bias[0] 2.weight[0] 4.weight[1]
        translation^4 0.bias[0] 2.bias[0]
        translation^4 2.bias[0] 4.bias[0]
    """),
    "tensor train": Row(
        25, 108, like="tensor train", table="""
        GL(3) cores.0[3] cores.1[0]
        GL(4) cores.1[3] cores.2[0]
    """),
    "bilinear": Row(
        10, 80, make=lambda: a.Bilinear(6, 4), inputs=real(2, 6), table="""
        R+^10 a.weight[0] b.weight[0] w.weight[1]
        S_5 a.weight[0] b.weight[0] w.weight[1]
        Z2^10 a.weight[0] b.weight[0] w.weight[1]
        Z2^5 a.weight[0] b.weight[0]
    """),
    "siren": Row(
        0, 67, like="siren", table="""
        S_6 0.bias[0] 0.weight[0] 2.weight[1]
        S_6 2.bias[0] 2.weight[0] 4.weight[1]
        Z2^6 0.bias[0] 0.weight[0] 2.weight[1]
        Z2^6 2.bias[0] 2.weight[0] 4.weight[1]
        Z^6 0.bias[0]
        Z^6 2.bias[0]
    """),
    "deep sets": Row(
        31, 88, make=a.DeepSets, inputs=real(2, 4, 3), seed=5, table="""
        GL(4) phi.2.bias[0] phi.2.weight[0] rho.0.weight[1]
        R+^5 phi.0.bias[0] phi.0.weight[0] phi.2.weight[1]
        R+^6 rho.0.bias[0] rho.0.weight[0] rho.2.weight[1]
        S_5 phi.0.bias[0] phi.0.weight[0] phi.2.weight[1]
        S_6 rho.0.bias[0] rho.0.weight[0] rho.2.weight[1]
        translation^4 phi.2.bias[0] rho.0.bias[0]
    """),
    "gcn": Row(
        5, 33, like="gcn", hidden=1, table="""
        R+^5 first.bias[0] first.weight[0] second.weight[1]
        S_5 first.bias[0] first.weight[0] second.weight[1]
    """),
    "gin": Row(
        15, 89, like="gin", hidden=None, table="""
        R+^4 first.2.bias[0] first.2.weight[0] second.0.weight[1]
        R+^5 first.0.bias[0] first.0.weight[0] first.2.weight[1]
        R+^6 second.0.bias[0] second.0.weight[0] second.2.weight[1]
        S_4 first.2.bias[0] first.2.weight[0] second.0.weight[1]
        S_5 first.0.bias[0] first.0.weight[0] first.2.weight[1]
        S_6 second.0.bias[0] second.0.weight[0] second.2.weight[1]
    """),
    "neural ode": Row(
        20, 84, like="neural ode", table="""
        GL(4) field.0.weight[1] field.2.bias[0] field.2.weight[0] head.weight[1] lift.bias[0] lift.weight[0]
        S_6 field.0.bias[0] field.0.weight[0] field.2.weight[1]
        Z2^6 field.0.bias[0] field.0.weight[0] field.2.weight[1]
        translation^4 field.0.bias[0] head.bias[0] lift.bias[0]
    """),
    "tree cell": Row(
        0, 62, like="tree cell", table="""
        S_4 cell.bias[0] cell.weight[0] cell.weight[1] head.weight[1] leaf.bias[0] leaf.weight[0]
        Z2^4 cell.bias[0] cell.weight[0] cell.weight[1] head.weight[1] leaf.bias[0] leaf.weight[0]
    """),
    "small encoder layer": Row(
        116, 430, make=lambda: nn.TransformerEncoderLayer(8, 2, 6, batch_first=True), inputs=real(2, 5, 8), table="""
        GL(4)^2 self_attn.in_proj_bias[0] self_attn.in_proj_weight[0]
        GL(4)^2 self_attn.in_proj_bias[0] self_attn.in_proj_weight[0] self_attn.out_proj.weight[1]
        R+^6 linear1.bias[0] linear1.weight[0] linear2.weight[1]
        S_2 self_attn.in_proj_bias[0] self_attn.in_proj_weight[0] self_attn.out_proj.weight[1]
        S_6 linear1.bias[0] linear1.weight[0] linear2.weight[1]
        Z2 linear1.weight[1] linear2.bias[0] linear2.weight[0] norm1.bias[0] norm1.weight[0] norm2.weight[0]
        translation linear1.bias[0] norm1.bias[0]
        translation self_attn.out_proj.bias[0]
        translation^6 linear1.bias[0] linear1.weight[0, 1]
        translation^6 linear2.weight[0, 1]
        translation^8 linear1.bias[0] linear2.bias[0] norm1.bias[0]
        translation^8 self_attn.in_proj_bias[0]
        translation^8 self_attn.in_proj_bias[0] self_attn.out_proj.bias[0]
        translation^8 self_attn.out_proj.weight[0, 1]
    """),
}  # fmt: skip
