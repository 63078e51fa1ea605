"""Every entry once. Reads BOIC and, through the cache, BOC + BIC; writes BOIC."""

import triton
import triton.language as tl
from torch import Tensor

from modelzoo.kernels.registry import Configuration

BLOCK_I, BLOCK_C = 32, 64


@triton.jit
def _fwd_kernel(
    p_weights, p_rows, p_columns, p_result, outputs, inputs, channels, WEIGHTED: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    i_row, i_input, i_channel = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    o_input = i_input * BLOCK_I + tl.arange(0, BLOCK_I)
    o_channel = i_channel * BLOCK_C + tl.arange(0, BLOCK_C)
    m_channel = o_channel < channels
    m_tile = (o_input < inputs)[:, None] & m_channel[None, :]
    o_edge = o_input[:, None] * channels + o_channel[None, :]
    b_row = tl.load(p_rows + i_row * channels + o_channel, m_channel, 0.0).to(tl.float32)
    b_column = tl.load(p_columns + (i_row // outputs) * inputs * channels + o_edge, m_tile, 0.0).to(tl.float32)
    b_sum = b_row[None, :] + b_column
    o_tile = i_row * inputs * channels + o_edge
    if WEIGHTED:
        b_sum += tl.load(p_weights + o_tile, m_tile, 0.0).to(tl.float32)
    tl.store(p_result + o_tile, b_sum, m_tile)


def forward(weights: Tensor | None, rows: Tensor, columns: Tensor) -> Tensor:
    """See `axis_broadcast`."""
    batch, outputs, channels = rows.shape
    inputs = columns.shape[1]
    result = rows.new_empty(batch, outputs, inputs, channels)
    block_i, block_c = (min(most, triton.next_power_of_2(n)) for most, n in ((BLOCK_I, inputs), (BLOCK_C, channels)))
    _fwd_kernel[(batch * outputs, triton.cdiv(inputs, block_i), triton.cdiv(channels, block_c))](
        None if weights is None else weights.contiguous(), rows.contiguous(), columns.contiguous(), result, outputs, inputs, channels,
        WEIGHTED=weights is not None, BLOCK_I=block_i, BLOCK_C=block_c, num_warps=4,
    )  # fmt: skip
    return result


CONFIGURATIONS = [
    Configuration(
        _fwd_kernel, dict.fromkeys(("p_weights", "p_rows", "p_columns", "p_result"), dtype),
        {"WEIGHTED": True, "BLOCK_I": BLOCK_I, "BLOCK_C": BLOCK_C}, dict.fromkeys(("outputs", "inputs", "channels"), "i32"),
    )
    for dtype in ("fp32", "bf16")
]  # fmt: skip
