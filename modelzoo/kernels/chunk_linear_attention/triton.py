"""One program a head and block of values walks through the chunks with its state `[K, BLOCK_V]` in registers.

Forward reads 2 TK + TV + TK and writes TV; backward reads that and TV twice and writes TV and, once a block of values,
2 TK, which a small sum reduces. Exponents are sums of log-decays over a stretch of time: nothing overflows.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from modelzoo.kernels.registry import Configuration

CHUNK, BLOCK_V, MOST_K = 16, 16, 128
WARPS, STAGES = 8, 1  # with fewer warps or more stages products in full float32 spill


@triton.jit
def _load(p, i_head, o_time, o_column, time, columns):
    m = (o_time < time)[:, None] & (o_column < columns)[None, :]
    return tl.load(p + (i_head * time + o_time[:, None]) * columns + o_column[None, :], m, 0.0).to(tl.float32)


@triton.jit
def _store(p, i_head, o_time, o_column, time, columns, b):
    m = (o_time < time)[:, None] & (o_column < columns)[None, :]
    tl.store(p + (i_head * time + o_time[:, None]) * columns + o_column[None, :], b, m)


@triton.jit
def _totals(p_g, i_head, o_time, o_k, time, width, CHANNEL: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr):
    """Running sums of log-decay in the chunk `[CHUNK, BLOCK_K]`, and the sum of all `[BLOCK_K]`."""
    if CHANNEL:
        b_g = _load(p_g, i_head, o_time, o_k, time, width)
    else:
        b_g = tl.load(p_g + i_head * time + o_time, o_time < time, 0.0).to(tl.float32)
        b_g = tl.zeros([CHUNK, BLOCK_K], tl.float32) + b_g[:, None]
    return tl.cumsum(b_g, 0), tl.sum(b_g, 0)


@triton.jit
def _row(b, j, CHUNK: tl.constexpr):
    """Row j of a tile."""
    return tl.sum(tl.where((tl.arange(0, CHUNK) == j)[:, None], b, 0.0), 0)


@triton.jit
def _faded(b_total, j, CHUNK: tl.constexpr):
    """exp(G_i - G_j) for i ≥ j, else 0, `[CHUNK, BLOCK_K]`."""
    m_later = (tl.arange(0, CHUNK) >= j)[:, None]
    b_gap = tl.where(m_later, b_total - _row(b_total, j, CHUNK)[None, :], 0.0)
    return tl.where(m_later, tl.exp(b_gap), 0.0)


@triton.jit
def _decays(b_total, CHUNK: tl.constexpr):
    """exp(G_i - G_j) for j ≤ i, else 0, `[CHUNK, CHUNK]`, of a decay that is the same in every column."""
    o = tl.arange(0, CHUNK)
    b_scalar = tl.max(b_total, 1)
    m_lower = o[:, None] >= o[None, :]
    return tl.where(m_lower, tl.exp(tl.where(m_lower, b_scalar[:, None] - b_scalar[None, :], 0.0)), 0.0)


@triton.jit
def _scores(b_q, b_k, b_total, CHANNEL: tl.constexpr, CHUNK: tl.constexpr):
    if CHANNEL:
        b_a = tl.zeros([CHUNK, CHUNK], tl.float32)
        for j in range(CHUNK):
            b_column = tl.sum(b_q * _faded(b_total, j, CHUNK) * _row(b_k, j, CHUNK)[None, :], 1)
            b_a += tl.where((tl.arange(0, CHUNK) == j)[None, :], b_column[:, None], 0.0)
        return b_a
    return tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * _decays(b_total, CHUNK)


@triton.jit
def _fwd_kernel(
    p_q, p_k, p_v, p_g, p_o, time, width, values,
    CHANNEL: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    i_head = tl.program_id(0).to(tl.int64)
    o_k, o_v = tl.arange(0, BLOCK_K), tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    b_state = tl.zeros([BLOCK_K, BLOCK_V], tl.float32)
    for start in range(0, time, CHUNK):
        o_time = start + tl.arange(0, CHUNK)
        b_q = _load(p_q, i_head, o_time, o_k, time, width)
        b_k = _load(p_k, i_head, o_time, o_k, time, width)
        b_v = _load(p_v, i_head, o_time, o_v, time, values)
        b_total, b_whole = _totals(p_g, i_head, o_time, o_k, time, width, CHANNEL, CHUNK, BLOCK_K)
        b_o = tl.dot(_scores(b_q, b_k, b_total, CHANNEL, CHUNK), b_v, input_precision="ieee")
        b_o += tl.dot(b_q * tl.exp(b_total), b_state, input_precision="ieee")
        _store(p_o, i_head, o_time, o_v, time, values, b_o)
        b_faded = tl.trans(b_k * tl.exp(b_whole[None, :] - b_total))
        b_state = tl.exp(b_whole)[:, None] * b_state + tl.dot(b_faded, b_v, input_precision="ieee")


@triton.jit
def _bwd_queries_kernel(
    p_do, p_k, p_v, p_g, p_dq, heads, time, width, values,
    CHANNEL: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Forward in time; `p_dq` is `[blocks of V, N, T, K]` in float32."""
    i_head, i_value = tl.program_id(0).to(tl.int64), tl.program_id(1)
    o_k, o_v = tl.arange(0, BLOCK_K), i_value * BLOCK_V + tl.arange(0, BLOCK_V)
    b_state = tl.zeros([BLOCK_K, BLOCK_V], tl.float32)
    for start in range(0, time, CHUNK):
        o_time = start + tl.arange(0, CHUNK)
        b_do = _load(p_do, i_head, o_time, o_v, time, values)
        b_k = _load(p_k, i_head, o_time, o_k, time, width)
        b_v = _load(p_v, i_head, o_time, o_v, time, values)
        b_total, b_whole = _totals(p_g, i_head, o_time, o_k, time, width, CHANNEL, CHUNK, BLOCK_K)
        b_dq = tl.dot(b_do, tl.trans(b_state), input_precision="ieee") * tl.exp(b_total)
        b_scores = tl.dot(b_do, tl.trans(b_v), input_precision="ieee")
        if CHANNEL:
            for j in range(CHUNK):
                b_column = tl.sum(tl.where((tl.arange(0, CHUNK) == j)[None, :], b_scores, 0.0), 1)
                b_dq += b_column[:, None] * _faded(b_total, j, CHUNK) * _row(b_k, j, CHUNK)[None, :]
        else:
            b_dq += tl.dot(b_scores * _decays(b_total, CHUNK), b_k, input_precision="ieee")
        _store(p_dq, i_value * heads + i_head, o_time, o_k, time, width, b_dq)
        b_faded = tl.trans(b_k * tl.exp(b_whole[None, :] - b_total))
        b_state = tl.exp(b_whole)[:, None] * b_state + tl.dot(b_faded, b_v, input_precision="ieee")


@triton.jit
def _bwd_keys_kernel(
    p_do, p_q, p_k, p_v, p_g, p_dk, p_dv, heads, time, width, values,
    CHANNEL: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Backward in time; `p_dk` is `[blocks of V, N, T, K]` in float32."""
    i_head, i_value = tl.program_id(0).to(tl.int64), tl.program_id(1)
    o_k, o_v = tl.arange(0, BLOCK_K), i_value * BLOCK_V + tl.arange(0, BLOCK_V)
    b_adjoint = tl.zeros([BLOCK_K, BLOCK_V], tl.float32)
    chunks = tl.cdiv(time, CHUNK)
    for i in range(chunks):
        o_time = (chunks - 1 - i) * CHUNK + tl.arange(0, CHUNK)
        b_do = _load(p_do, i_head, o_time, o_v, time, values)
        b_q = _load(p_q, i_head, o_time, o_k, time, width)
        b_k = _load(p_k, i_head, o_time, o_k, time, width)
        b_v = _load(p_v, i_head, o_time, o_v, time, values)
        b_total, b_whole = _totals(p_g, i_head, o_time, o_k, time, width, CHANNEL, CHUNK, BLOCK_K)
        b_leaving = tl.exp(b_whole[None, :] - b_total)
        b_scores = _scores(b_q, b_k, b_total, CHANNEL, CHUNK)
        b_dv = tl.dot(tl.trans(b_scores), b_do, input_precision="ieee")
        b_dv += tl.dot(b_k * b_leaving, b_adjoint, input_precision="ieee")
        _store(p_dv, i_head, o_time, o_v, time, values, b_dv)
        b_dk = tl.dot(b_v, tl.trans(b_adjoint), input_precision="ieee") * b_leaving
        b_given = tl.dot(b_do, tl.trans(b_v), input_precision="ieee")
        if CHANNEL:
            for j in range(CHUNK):
                b_column = tl.sum(tl.where((tl.arange(0, CHUNK) == j)[None, :], b_given, 0.0), 1)
                b_own = tl.sum(b_column[:, None] * _faded(b_total, j, CHUNK) * b_q, 0)
                b_dk += tl.where((tl.arange(0, CHUNK) == j)[:, None], b_own[None, :], 0.0)
        else:
            b_dk += tl.dot(tl.trans(b_given * _decays(b_total, CHUNK)), b_q, input_precision="ieee")
        _store(p_dk, i_value * heads + i_head, o_time, o_k, time, width, b_dk)
        b_added = tl.dot(tl.trans(b_q * tl.exp(b_total)), b_do, input_precision="ieee")
        b_adjoint = tl.exp(b_whole)[:, None] * b_adjoint + b_added


def refused(part: str, *arguments: Tensor) -> str:
    """A state must fit on chip."""
    width = arguments[0 if part == "forward" else 1].shape[2]
    return f"keys are {width} wide and {MOST_K} is the most" if width > MOST_K else ""


def _blocks(width: int, values: int, channel: bool) -> tuple[int, dict[str, int | bool]]:
    block_k = max(16, triton.next_power_of_2(width))
    block_v = max(16, min(BLOCK_V, triton.next_power_of_2(values)))
    constants = {
        "CHANNEL": channel,
        "CHUNK": CHUNK,
        "BLOCK_K": block_k,
        "BLOCK_V": block_v,
        "num_warps": WARPS,
        "num_stages": STAGES,
    }
    return triton.cdiv(values, block_v), constants


def forward(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """See `reference.forward`."""
    q, k, v, g = (x.contiguous() for x in (q, k, v, g))
    o = torch.empty_like(v)
    pieces, constants = _blocks(q.shape[2], v.shape[2], g.shape[2] > 1)
    _fwd_kernel[(len(q), pieces)](q, k, v, g, o, q.shape[1], q.shape[2], v.shape[2], **constants)
    return o


def backward(output: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `compiled.backward` for dg."""
    output, q, k, v, g = (x.contiguous() for x in (output, q, k, v, g))
    heads, time, width = q.shape
    pieces, constants = _blocks(width, v.shape[2], g.shape[2] > 1)
    dq, dk = (torch.empty(pieces, heads, time, width, dtype=torch.float32, device=q.device) for _ in range(2))
    dv = torch.empty_like(v)
    sizes = (heads, time, width, v.shape[2])
    _bwd_queries_kernel[(heads, pieces)](output, k, v, g, dq, *sizes, **constants)
    _bwd_keys_kernel[(heads, pieces)](output, q, k, v, g, dk, dv, *sizes, **constants)
    dq, dk = dq.sum(0), dk.sum(0)
    moved = q * dq - k * dk
    if g.shape[2] == 1:
        moved = moved.sum(2, keepdim=True)
    return dq.to(q.dtype), dk.to(k.dtype), dv, moved.flip(1).cumsum(1).flip(1).to(g.dtype)


def _configurations(dtype: str, channel: bool) -> list[Configuration]:
    constants = {"CHANNEL": channel, "CHUNK": CHUNK, "BLOCK_K": 64, "BLOCK_V": BLOCK_V}
    sizes = dict.fromkeys(("time", "width", "values"), "i32")
    given = dict.fromkeys(("p_do", "p_q", "p_k", "p_v", "p_g"), dtype)
    return [
        Configuration(_fwd_kernel, dict.fromkeys(("p_q", "p_k", "p_v", "p_g", "p_o"), dtype), constants, sizes, WARPS, STAGES),
        Configuration(_bwd_queries_kernel, {**{n: t for n, t in given.items() if n != "p_q"}, "p_dq": "fp32"}, constants, {"heads": "i32", **sizes}, WARPS, STAGES),
        Configuration(_bwd_keys_kernel, {**given, "p_dk": "fp32", "p_dv": dtype}, constants, {"heads": "i32", **sizes}, WARPS, STAGES),
    ]  # fmt: skip


CONFIGURATIONS = [
    *_configurations("fp32", True),
    *_configurations("fp32", False),
    *_configurations("bf16", True),
    *_configurations("bf16", False),
]
