"""Tiles of rows by columns by channels; a program keeps the sums of its columns and writes its share of every row.

Reads BOIC once; writes BIC and ceil(I / 32) BOC, which a small sum reduces.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from modelzoo.kernels.registry import Configuration

BLOCK_O, BLOCK_I, BLOCK_C = 4, 32, 32


@triton.jit
def _fwd_kernel(
    p_weights, p_rows, p_columns, outputs, inputs, channels, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """`p_rows` is `[B, blocks of I, O, C]` in float32."""
    i_batch, i_input, i_channel = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    o_input = i_input * BLOCK_I + tl.arange(0, BLOCK_I)
    o_channel = i_channel * BLOCK_C + tl.arange(0, BLOCK_C)
    m_input, m_channel = o_input < inputs, o_channel < channels
    m_edge = m_input[:, None] & m_channel[None, :]
    o_edge = o_input[:, None] * channels + o_channel[None, :]
    b_columns = tl.zeros([BLOCK_I, BLOCK_C], tl.float32)
    p_rows += (i_batch * tl.num_programs(1) + i_input) * outputs * channels
    for start in range(0, outputs, BLOCK_O):
        o_output = start + tl.arange(0, BLOCK_O)
        m_output = o_output < outputs
        o_tile = (i_batch * outputs + o_output[:, None, None]) * inputs * channels + o_edge[None, :, :]
        b_w = tl.load(p_weights + o_tile, m_output[:, None, None] & m_edge[None, :, :], 0.0).to(tl.float32)
        b_columns += tl.sum(b_w, 0)
        o_rows = o_output[:, None] * channels + o_channel[None, :]
        tl.store(p_rows + o_rows, tl.sum(b_w, 1), m_output[:, None] & m_channel[None, :])
    tl.store(p_columns + i_batch * inputs * channels + o_edge, b_columns, m_edge)


def forward(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over I and over O."""
    weights = weights.contiguous()
    batch, outputs, inputs, channels = weights.shape
    block_i, block_c = (min(most, triton.next_power_of_2(n)) for most, n in ((BLOCK_I, inputs), (BLOCK_C, channels)))
    pieces = triton.cdiv(inputs, block_i)
    rows = torch.empty(batch, pieces, outputs, channels, dtype=torch.float32, device=weights.device)
    columns = weights.new_empty(batch, inputs, channels)
    _fwd_kernel[(batch, pieces, triton.cdiv(channels, block_c))](
        weights,
        rows,
        columns,
        outputs,
        inputs,
        channels,
        BLOCK_O=BLOCK_O,
        BLOCK_I=block_i,
        BLOCK_C=block_c,
        num_warps=4,
    )
    return rows.sum(1).to(weights.dtype), columns


CONFIGURATIONS = [
    Configuration(
        _fwd_kernel, {"p_weights": dtype, "p_rows": "fp32", "p_columns": dtype},
        {"BLOCK_O": BLOCK_O, "BLOCK_I": BLOCK_I, "BLOCK_C": BLOCK_C}, dict.fromkeys(("outputs", "inputs", "channels"), "i32"),
    )
    for dtype in ("fp32", "bf16")
]  # fmt: skip
