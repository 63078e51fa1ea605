"""One program a target and block of channels walks through the target's edges; messages live in registers.

Forward reads NC (through the cache) + 2 EC + VC and writes VC, with the update EC more. Backward reads the same and the
gradients, writes 2 EC + VC; a second kernel walks through edges by source, reads 2 EC, writes NC. No atomic additions:
results are the same every time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from metanets.kernels.edge_message import ACTIVATIONS
from modelzoo.kernels.registry import Configuration

BLOCK_E, BLOCK_C = 16, 64


@triton.jit
def _pre_activation(p_nodes, p_gain, p_shift, p_source, b_target, o_edge, o_channel, m_edge, m_tile, channels):
    o_source = tl.load(p_source + o_edge, m_edge, 0)
    o_tile = o_edge[:, None] * channels + o_channel[None, :]
    b_x = tl.load(p_nodes + o_source[:, None] * channels + o_channel[None, :], m_tile, 0.0).to(tl.float32)
    b_gain = tl.load(p_gain + o_tile, m_tile, 0.0).to(tl.float32)
    b_shift = tl.load(p_shift + o_tile, m_tile, 0.0).to(tl.float32)
    return b_gain * b_x + b_shift + b_target[None, :], b_x, o_tile


@triton.jit
def _fwd_kernel(
    p_nodes, p_gain, p_shift, p_target, p_source, p_offsets, p_pooled, p_updated, channels,
    ACTIVATION: tl.constexpr, UPDATE: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    i_target = tl.program_id(0).to(tl.int64)
    o_channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    m_channel = o_channel < channels
    first, last = tl.load(p_offsets + i_target), tl.load(p_offsets + i_target + 1)
    b_target = tl.load(p_target + i_target * channels + o_channel, m_channel, 0.0).to(tl.float32)
    b_sum = tl.zeros([BLOCK_C], tl.float32)
    for start in range(first, last, BLOCK_E):
        o_edge = start + tl.arange(0, BLOCK_E)
        m_edge = o_edge < last
        m_tile = m_edge[:, None] & m_channel[None, :]
        b_z, _, o_tile = _pre_activation(
            p_nodes, p_gain, p_shift, p_source, b_target, o_edge, o_channel, m_edge, m_tile, channels
        )
        if ACTIVATION == 1:
            b_z = tl.maximum(b_z, 0.0)
        elif ACTIVATION == 2:
            b_z = b_z * tl.sigmoid(b_z)
        b_sum += tl.sum(tl.where(m_tile, b_z, 0.0), 0)
        if UPDATE:
            tl.store(p_updated + o_tile, b_z, m_tile)
    tl.store(p_pooled + i_target * channels + o_channel, b_sum, m_channel)


@triton.jit
def _bwd_kernel(
    p_d_pooled, p_d_updated, p_nodes, p_gain, p_shift, p_target, p_source, p_offsets, p_d_gain, p_d_shift, p_d_target, channels,
    ACTIVATION: tl.constexpr, UPDATE: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    i_target = tl.program_id(0).to(tl.int64)
    o_channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    m_channel = o_channel < channels
    first, last = tl.load(p_offsets + i_target), tl.load(p_offsets + i_target + 1)
    b_target = tl.load(p_target + i_target * channels + o_channel, m_channel, 0.0).to(tl.float32)
    b_d_pooled = tl.load(p_d_pooled + i_target * channels + o_channel, m_channel, 0.0).to(tl.float32)
    b_sum = tl.zeros([BLOCK_C], tl.float32)
    for start in range(first, last, BLOCK_E):
        o_edge = start + tl.arange(0, BLOCK_E)
        m_edge = o_edge < last
        m_tile = m_edge[:, None] & m_channel[None, :]
        b_z, b_x, o_tile = _pre_activation(
            p_nodes, p_gain, p_shift, p_source, b_target, o_edge, o_channel, m_edge, m_tile, channels
        )
        b_g = tl.zeros([BLOCK_E, BLOCK_C], tl.float32) + b_d_pooled[None, :]
        if UPDATE:
            b_g += tl.load(p_d_updated + o_tile, m_tile, 0.0).to(tl.float32)
        if ACTIVATION == 1:
            b_g = tl.where(b_z > 0, b_g, 0.0)
        elif ACTIVATION == 2:
            b_s = tl.sigmoid(b_z)
            b_g = b_g * b_s * (1 + b_z * (1 - b_s))
        tl.store(p_d_shift + o_tile, b_g, m_tile)
        tl.store(p_d_gain + o_tile, b_g * b_x, m_tile)
        b_sum += tl.sum(tl.where(m_tile, b_g, 0.0), 0)
    tl.store(p_d_target + i_target * channels + o_channel, b_sum, m_channel)


@triton.jit
def _bwd_nodes_kernel(
    p_d_shift, p_gain, p_order, p_offsets, p_d_nodes, channels, BLOCK_E: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Σ g ⊙ gain over the edges that leave a node: `p_order` lists edges by source."""
    i_node = tl.program_id(0).to(tl.int64)
    o_channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    m_channel = o_channel < channels
    first, last = tl.load(p_offsets + i_node), tl.load(p_offsets + i_node + 1)
    b_sum = tl.zeros([BLOCK_C], tl.float32)
    for start in range(first, last, BLOCK_E):
        o_place = start + tl.arange(0, BLOCK_E)
        m_edge = o_place < last
        m_tile = m_edge[:, None] & m_channel[None, :]
        o_tile = tl.load(p_order + o_place, m_edge, 0)[:, None] * channels + o_channel[None, :]
        b_g = tl.load(p_d_shift + o_tile, m_tile, 0.0).to(tl.float32)
        b_sum += tl.sum(b_g * tl.load(p_gain + o_tile, m_tile, 0.0).to(tl.float32), 0)
    tl.store(p_d_nodes + i_node * channels + o_channel, b_sum, m_channel)


def _grid(rows: int, channels: int) -> tuple[tuple[int, int], dict[str, int]]:
    block = min(BLOCK_C, triton.next_power_of_2(max(channels, 1)))
    return (rows, triton.cdiv(channels, block)), {"BLOCK_E": BLOCK_E, "BLOCK_C": block, "num_warps": 4}


def forward(
    nodes: Tensor, gain: Tensor, shift: Tensor, target: Tensor, source: Tensor, offsets: Tensor, activation: str, update: bool
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See `edge_message`."""
    nodes, gain, shift, target = (x.contiguous() for x in (nodes, gain, shift, target))
    pooled, updated = torch.empty_like(target), shift.new_empty(shift.shape if update else (0, shift.shape[1]))
    grid, blocks = _grid(len(target), shift.shape[1])
    if target.numel():
        _fwd_kernel[grid](
            nodes, gain, shift, target, source, offsets, pooled, updated if update else None, shift.shape[1],
            ACTIVATION=ACTIVATIONS.index(activation), UPDATE=update, **blocks,
        )  # fmt: skip
    return pooled, updated


def backward(
    pooled: Tensor, updated: Tensor, nodes: Tensor, gain: Tensor, shift: Tensor, target: Tensor, source: Tensor, offsets: Tensor,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """See `reference.backward`."""
    pooled, updated, nodes, gain, shift, target = (
        x.contiguous() for x in (pooled, updated, nodes, gain, shift, target)
    )
    d_nodes, d_gain, d_shift, d_target = (torch.empty_like(x) for x in (nodes, gain, shift, target))
    channels, update = shift.shape[1], len(updated) > 0
    grid, blocks = _grid(len(target), channels)
    if target.numel():
        _bwd_kernel[grid](
            pooled, updated if update else None, nodes, gain, shift, target, source, offsets, d_gain, d_shift, d_target, channels,
            ACTIVATION=ACTIVATIONS.index(activation), UPDATE=update, **blocks,
        )  # fmt: skip
    leaving = torch.zeros(len(nodes) + 1, dtype=torch.int64, device=nodes.device)
    leaving[1:] = torch.zeros_like(leaving[1:]).index_add(0, source, torch.ones_like(source)).cumsum(0)
    grid, blocks = _grid(len(nodes), channels)
    if nodes.numel():
        _bwd_nodes_kernel[grid](d_shift, gain, source.argsort(stable=True), leaving, d_nodes, channels, **blocks)
    return d_nodes, d_gain, d_shift, d_target


_BLOCKS = {"BLOCK_E": BLOCK_E, "BLOCK_C": BLOCK_C}
_FORWARD = ("p_nodes", "p_gain", "p_shift", "p_target", "p_pooled", "p_updated")
_BACKWARD = ("p_d_pooled", "p_d_updated", "p_nodes", "p_gain", "p_shift", "p_target", "p_d_gain", "p_d_shift", "p_d_target")  # fmt: skip
_INDICES = {"p_source": "i64", "p_offsets": "i64"}
CONFIGURATIONS = [
    configuration
    for dtype in ("fp32", "bf16")
    for configuration in (
        Configuration(_fwd_kernel, {**dict.fromkeys(_FORWARD, dtype), **_INDICES}, {"ACTIVATION": 2, "UPDATE": True, **_BLOCKS}, {"channels": "i32"}),
        Configuration(_bwd_kernel, {**dict.fromkeys(_BACKWARD, dtype), **_INDICES}, {"ACTIVATION": 2, "UPDATE": True, **_BLOCKS}, {"channels": "i32"}),
        Configuration(
            _bwd_nodes_kernel, {"p_d_shift": dtype, "p_gain": dtype, "p_d_nodes": dtype, "p_order": "i64", "p_offsets": "i64"},
            _BLOCKS, {"channels": "i32"},
        ),
    )
]  # fmt: skip
