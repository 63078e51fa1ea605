"""Tiles of time by channels, each scanned in parallel; long sequences are cut into chunks that run side by side.

Three launches for a long sequence: the last state and the product of decays of every chunk, were it alone (reads 2 BTC);
a scan over chunks (small); every chunk again from its true start (reads 2 BTC, writes BTC). One launch for a short one.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from modelzoo.kernels.registry import Configuration

CHUNK = 1024  # steps that one program walks through when a sequence is cut
BLOCK_T, BLOCK_C = 64, 32  # largest tile


@triton.jit
def _combine(a1, x1, a2, x2):
    return a1 * a2, a2 * x1 + x2


@triton.jit
def _combine_complex(ar1, ai1, xr1, xi1, ar2, ai2, xr2, xi2):
    return (
        ar1 * ar2 - ai1 * ai2,
        ar1 * ai2 + ai1 * ar2,
        ar2 * xr1 - ai2 * xi1 + xr2,
        ar2 * xi1 + ai2 * xr1 + xi2,
    )


@triton.jit
def _scan_kernel(
    p_decay, p_inputs, p_initial, p_states, p_product, time, channels, chunk, chunks,
    COMPLEX: tl.constexpr, REVERSE: tl.constexpr, INITIAL: tl.constexpr, SUMMARY: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One chunk of one block of channels. SUMMARY: only the last state and the product of decays leave."""
    i_channel, i_chunk, i_batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_channel = i_channel * BLOCK_C + tl.arange(0, BLOCK_C)
    m_channel = o_channel < channels
    parts: tl.constexpr = 2 if COMPLEX else 1
    o_edge = ((i_batch * chunks + i_chunk) * channels + o_channel) * parts  # of `[B, chunks, C]`
    b_state = tl.zeros([BLOCK_C], tl.float32)
    b_state_i = tl.zeros([BLOCK_C], tl.float32)
    if INITIAL:
        b_state = tl.load(p_initial + o_edge, m_channel, 0.0).to(tl.float32)
        if COMPLEX:
            b_state_i = tl.load(p_initial + o_edge + 1, m_channel, 0.0).to(tl.float32)
    b_product = tl.full([BLOCK_C], 1.0, tl.float32)
    b_product_i = tl.zeros([BLOCK_C], tl.float32)
    o_row = tl.arange(0, BLOCK_T)
    m_last = (o_row == BLOCK_T - 1)[:, None]  # rows past the end have decay 1 and input 0, so the last row is the state
    for start in range(0, chunk, BLOCK_T):
        o_step = i_chunk * chunk + start + o_row
        m_tile = ((start + o_row < chunk) & (o_step < time))[:, None] & m_channel[None, :]
        o_time = time - 1 - o_step if REVERSE else o_step
        o_tile = ((i_batch * time + o_time[:, None]) * channels + o_channel[None, :]) * parts
        b_a = tl.load(p_decay + o_tile, m_tile, 1.0).to(tl.float32)
        b_x = tl.load(p_inputs + o_tile, m_tile, 0.0).to(tl.float32)
        if COMPLEX:
            b_ai = tl.load(p_decay + o_tile + 1, m_tile, 0.0).to(tl.float32)
            b_xi = tl.load(p_inputs + o_tile + 1, m_tile, 0.0).to(tl.float32)
            b_a, b_ai, b_x, b_xi = tl.associative_scan((b_a, b_ai, b_x, b_xi), 0, _combine_complex)
            b_h = b_a * b_state[None, :] - b_ai * b_state_i[None, :] + b_x
            b_hi = b_a * b_state_i[None, :] + b_ai * b_state[None, :] + b_xi
            b_state_i = tl.sum(tl.where(m_last, b_hi, 0.0), 0)
            if SUMMARY:
                b_tile = tl.sum(tl.where(m_last, b_a, 0.0), 0)
                b_tile_i = tl.sum(tl.where(m_last, b_ai, 0.0), 0)
                b_whole = b_product * b_tile - b_product_i * b_tile_i
                b_product_i = b_product * b_tile_i + b_product_i * b_tile
                b_product = b_whole
            else:
                tl.store(p_states + o_tile + 1, b_hi, m_tile)
        else:
            b_a, b_x = tl.associative_scan((b_a, b_x), 0, _combine)
            b_h = b_a * b_state[None, :] + b_x
            if SUMMARY:
                b_product = b_product * tl.sum(tl.where(m_last, b_a, 0.0), 0)
        b_state = tl.sum(tl.where(m_last, b_h, 0.0), 0)
        if not SUMMARY:
            tl.store(p_states + o_tile, b_h, m_tile)
    if SUMMARY:
        tl.store(p_states + o_edge, b_state, m_channel)
        tl.store(p_product + o_edge, b_product, m_channel)
        if COMPLEX:
            tl.store(p_states + o_edge + 1, b_state_i, m_channel)
            tl.store(p_product + o_edge + 1, b_product_i, m_channel)


def forward(decay: Tensor, inputs: Tensor, reverse: bool) -> Tensor:
    """h_t = a_t h_{t-1} + x_t, `[B, T, C]`."""
    return _scan(decay.contiguous(), inputs.contiguous(), reverse, CHUNK)


def _scan(decay: Tensor, inputs: Tensor, reverse: bool, chunk: int) -> Tensor:
    batch, time, channels = inputs.shape
    chunks = max(1, triton.cdiv(time, chunk))
    states = torch.empty_like(inputs)
    if inputs.numel() == 0:
        return states
    if chunks == 1:
        _launch(decay, inputs, None, states, None, reverse, time)
        return states
    # A chunk's number counts from the end when reversed, so the scan over chunks always runs forward.
    exact = torch.promote_types(inputs.dtype, torch.float32)
    last, product = (torch.empty(batch, chunks, channels, dtype=exact, device=inputs.device) for _ in range(2))
    _launch(decay, inputs, None, last, product, reverse, chunk)
    ends = _scan(product, last, False, chunk)
    initial = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], 1)
    _launch(decay, inputs, initial, states, None, reverse, chunk)
    return states


def _launch(
    decay: Tensor, inputs: Tensor, initial: Tensor | None, states: Tensor, product: Tensor | None, reverse: bool, chunk: int
) -> None:  # fmt: skip
    batch, time, channels = inputs.shape
    chunks = triton.cdiv(time, chunk)
    pointers = [None if x is None else torch.view_as_real(x) if x.is_complex() else x for x in (decay, inputs, initial, states, product)]  # fmt: skip
    block_t, block_c = (min(most, triton.next_power_of_2(n)) for most, n in ((BLOCK_T, chunk), (BLOCK_C, channels)))
    _scan_kernel[(triton.cdiv(channels, block_c), chunks, batch)](
        *pointers, time, channels, chunk, chunks, COMPLEX=inputs.is_complex(), REVERSE=reverse,
        INITIAL=initial is not None, SUMMARY=product is not None, BLOCK_T=block_t, BLOCK_C=block_c, num_warps=4,
    )  # fmt: skip


def _configuration(dtype: str, complex: bool, summary: bool) -> Configuration:
    pointers = {
        "p_decay": dtype, "p_inputs": dtype, "p_initial": None if summary else "fp32", "p_states": "fp32" if summary else dtype,
        "p_product": "fp32" if summary else None,
    }  # fmt: skip
    constants = {"COMPLEX": complex, "REVERSE": True, "INITIAL": not summary, "SUMMARY": summary, "BLOCK_T": BLOCK_T, "BLOCK_C": BLOCK_C}  # fmt: skip
    return Configuration(
        _scan_kernel, pointers, constants, dict.fromkeys(("time", "channels", "chunk", "chunks"), "i32")
    )


CONFIGURATIONS = [
    _configuration("fp32", False, False),
    _configuration("fp32", True, False),
    _configuration("bf16", False, False),
    _configuration("fp32", True, True),
]
