"""In chunks: all that needs no state runs side by side, and products of small matrices hand the state from chunk to chunk.

Within a chunk the surprises solve a triangular system; see `compiled`. Forward inverts it for all chunks at once (reads TK,
writes 16 T), steps through chunks with the state in registers for the surprises (reads TK + TV + 16 T, writes TV), and is
then linear attention to β r without decay (reads 2 TK + TV, writes TV). Backward steps through chunks once, for dv and
the adjoint state, and has everything else in one launch, whose 2 TK a block of values a small sum reduces.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from modelzoo.kernels.chunk_linear_attention.triton import (
    BLOCK_V,
    CHUNK,
    MOST_K,
    SEGMENT,
    STAGES,
    WARPS,
    Launch,
    chunks_of,
    load,
    row,
    store,
)
from modelzoo.kernels.registry import Configuration


@triton.jit
def _rates(p_beta, i_head, o_time, time):
    return tl.load(p_beta + i_head * time + o_time, o_time < time, 0.0).to(tl.float32)


@triton.jit
def _inverse_kernel(p_k, p_beta, p_inverse, time, width, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr):
    """(I + tril(K Kᵀ, -1) diag β)⁻¹ of every chunk, row by row, `[N, T, CHUNK]`."""
    i_head = tl.program_id(0).to(tl.int64)
    o = tl.arange(0, CHUNK)
    o_time = tl.program_id(1) * CHUNK + o
    b_k = load(p_k, i_head, o_time, tl.arange(0, BLOCK_K), time, width)
    b_system = tl.dot(b_k, tl.trans(b_k), input_precision="ieee") * _rates(p_beta, i_head, o_time, time)[None, :]
    b_system = tl.where(o[:, None] > o[None, :], b_system, 0.0)
    b_inverse = tl.where(o[:, None] == o[None, :], 1.0, 0.0)
    for i in range(1, CHUNK):
        b_known = tl.sum(row(b_system, i, CHUNK)[:, None] * b_inverse, 0)
        b_inverse = tl.where((o == i)[:, None], b_inverse - b_known[None, :], b_inverse)
    store(p_inverse, i_head, o_time, o, time, CHUNK, b_inverse)


@triton.jit
def _surprise_kernel(
    p_k, p_v, p_beta, p_inverse, p_initial, p_r, p_states, p_last, time, width, values, segments,
    SEGMENT: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Forward in time: r, and the states that enter segments."""
    i_head = tl.program_id(0).to(tl.int64)
    o, o_k, o_v = tl.arange(0, CHUNK), tl.arange(0, BLOCK_K), tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    b_state = load(p_initial, i_head, o_k, o_v, width, values)
    for i_segment in range(segments):
        store(p_states, i_head * segments + i_segment, o_k, o_v, width, values, b_state)
        for i in range(chunks_of(i_segment, time, SEGMENT, CHUNK)):
            o_time = i_segment * SEGMENT + i * CHUNK + o
            b_k = load(p_k, i_head, o_time, o_k, time, width)
            b_given = load(p_v, i_head, o_time, o_v, time, values) - tl.dot(b_k, b_state, input_precision="ieee")
            b_r = tl.dot(load(p_inverse, i_head, o_time, o, time, CHUNK), b_given, input_precision="ieee")
            store(p_r, i_head, o_time, o_v, time, values, b_r)
            b_w = _rates(p_beta, i_head, o_time, time)[:, None] * b_r
            b_state += tl.dot(tl.trans(b_k), b_w, input_precision="ieee")
    store(p_last, i_head, o_k, o_v, width, values, b_state)


@triton.jit
def _adjoint_kernel(
    p_do, p_q, p_k, p_beta, p_inverse, p_final, p_dv, p_adjoints, p_last, time, width, values, segments,
    SEGMENT: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Back in time: dv, and the adjoint states that enter segments at their end."""
    i_head = tl.program_id(0).to(tl.int64)
    o, o_k, o_v = tl.arange(0, CHUNK), tl.arange(0, BLOCK_K), tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    b_adjoint = load(p_final, i_head, o_k, o_v, width, values)
    for back in range(segments):
        i_segment = segments - 1 - back
        store(p_adjoints, i_head * segments + i_segment, o_k, o_v, width, values, b_adjoint)
        chunks = chunks_of(i_segment, time, SEGMENT, CHUNK)
        for i in range(chunks):
            o_time = i_segment * SEGMENT + (chunks - 1 - i) * CHUNK + o
            b_q = load(p_q, i_head, o_time, o_k, time, width)
            b_k = load(p_k, i_head, o_time, o_k, time, width)
            b_do = load(p_do, i_head, o_time, o_v, time, values)
            b_scores = tl.where(o[:, None] >= o[None, :], tl.dot(b_q, tl.trans(b_k), input_precision="ieee"), 0.0)
            b_dw = tl.dot(tl.trans(b_scores), b_do, input_precision="ieee")
            b_dw += tl.dot(b_k, b_adjoint, input_precision="ieee")
            b_inverse = tl.trans(load(p_inverse, i_head, o_time, o, time, CHUNK))
            b_dw = _rates(p_beta, i_head, o_time, time)[:, None] * b_dw
            b_dv = tl.dot(b_inverse, b_dw, input_precision="ieee")
            store(p_dv, i_head, o_time, o_v, time, values, b_dv)
            b_adjoint += tl.dot(tl.trans(b_q), b_do, input_precision="ieee")
            b_adjoint -= tl.dot(tl.trans(b_k), b_dv, input_precision="ieee")
    store(p_last, i_head, o_k, o_v, width, values, b_adjoint)


@triton.jit
def _bwd_kernel(
    p_do, p_q, p_k, p_beta, p_r, p_dv, p_states, p_adjoints, p_dq, p_dk, p_d_beta, heads, time, width, values, segments,
    SEGMENT: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Back through a segment: this block's share of dq, dk and dβ; see `compiled.backward`."""
    i_head, i_value, i_segment = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    i_share = i_value * heads + i_head
    o, o_k, o_v = tl.arange(0, CHUNK), tl.arange(0, BLOCK_K), i_value * BLOCK_V + tl.arange(0, BLOCK_V)
    m_before = o[:, None] > o[None, :]
    b_adjoint = load(p_adjoints, i_head * segments + i_segment, o_k, o_v, width, values)
    chunks = chunks_of(i_segment, time, SEGMENT, CHUNK)
    for i in range(chunks):
        b_state = load(p_states, i_head * segments + i_segment, o_k, o_v, width, values)
        for before in range(chunks - 1 - i):  # the state that enters the chunk, again: cheaper than to store it
            o_time = i_segment * SEGMENT + before * CHUNK + o
            b_k = load(p_k, i_head, o_time, o_k, time, width)
            b_w = _rates(p_beta, i_head, o_time, time)[:, None] * load(p_r, i_head, o_time, o_v, time, values)
            b_state += tl.dot(tl.trans(b_k), b_w, input_precision="ieee")
        o_time = i_segment * SEGMENT + (chunks - 1 - i) * CHUNK + o
        b_q = load(p_q, i_head, o_time, o_k, time, width)
        b_k = load(p_k, i_head, o_time, o_k, time, width)
        b_do = load(p_do, i_head, o_time, o_v, time, values)
        b_dv = load(p_dv, i_head, o_time, o_v, time, values)
        b_r = load(p_r, i_head, o_time, o_v, time, values)
        b_w = _rates(p_beta, i_head, o_time, time)[:, None] * b_r
        b_given = tl.dot(b_do, tl.trans(b_w), input_precision="ieee")
        b_given = tl.where(m_before | (o[:, None] == o[None, :]), b_given, 0.0)
        b_dq = tl.dot(b_do, tl.trans(b_state), input_precision="ieee")
        store(p_dq, i_share, o_time, o_k, time, width, b_dq + tl.dot(b_given, b_k, input_precision="ieee"))
        b_gram = tl.where(m_before, -tl.dot(b_dv, tl.trans(b_w), input_precision="ieee"), 0.0)
        b_dk = tl.dot(b_gram + tl.trans(b_gram), b_k, input_precision="ieee")
        b_dk += tl.dot(tl.trans(b_given), b_q, input_precision="ieee")
        b_dk -= tl.dot(b_dv, tl.trans(b_state), input_precision="ieee")
        b_dk += tl.dot(b_w, tl.trans(b_adjoint), input_precision="ieee")
        store(p_dk, i_share, o_time, o_k, time, width, b_dk)
        b_keys = tl.where(m_before, tl.dot(b_k, tl.trans(b_k), input_precision="ieee"), 0.0)
        b_scores = tl.dot(b_q, tl.trans(b_k), input_precision="ieee")
        b_scores = tl.where(m_before | (o[:, None] == o[None, :]), b_scores, 0.0)
        b_dw = tl.dot(tl.trans(b_scores), b_do, input_precision="ieee") + tl.dot(b_k, b_adjoint, input_precision="ieee")
        b_dw -= tl.dot(tl.trans(b_keys), b_dv, input_precision="ieee")
        tl.store(p_d_beta + i_share * time + o_time, tl.sum(b_dw * b_r, 1), o_time < time)
        b_adjoint += tl.dot(tl.trans(b_q), b_do, input_precision="ieee")
        b_adjoint -= tl.dot(tl.trans(b_k), b_dv, input_precision="ieee")


def refused(part: str, *arguments: Tensor) -> str:
    """A state must fit on chip."""
    width = arguments[0 if part == "forward" else 2].shape[2]
    return f"keys are {width} wide and {MOST_K} is the most" if width > MOST_K else ""


def _inverse(launch: Launch, k: Tensor, beta: Tensor) -> Tensor:
    inverse = launch.scores(k)
    _inverse_kernel[launch.chunks](k, beta, inverse, *launch.sizes[:2], CHUNK=CHUNK, BLOCK_K=launch.blocks["BLOCK_K"], num_warps=4)  # fmt: skip
    return inverse


def forward(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, initial: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.forward`."""
    q, k, v, beta, initial = (x.contiguous() for x in (q, k, v, beta, initial))
    launch, none = Launch(k, v, beta), torch.zeros_like(beta)
    states = torch.empty(launch.state, dtype=torch.float32, device=k.device)
    r, final = torch.empty_like(v), torch.empty_like(initial)
    _surprise_kernel[launch.grid[:2]](
        k, v, beta, _inverse(launch, k, beta), initial, r, states, final, *launch.sizes, **launch.walk, **launch.options
    )  # fmt: skip
    return launch.outputs(q, k, beta * r, none, states), r, final


def backward(
    output: Tensor, final: Tensor, q: Tensor, k: Tensor, beta: Tensor, surprise: Tensor, initial: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `reference.backward`."""
    output, final, q, k, beta, surprise, initial = (x.contiguous() for x in (output, final, q, k, beta, surprise, initial))  # fmt: skip
    launch, none = Launch(k, surprise, beta), torch.zeros_like(beta)
    states, _ = launch.states(k, beta * surprise, none, initial, False)
    adjoints, d_initial = torch.empty_like(states), torch.empty_like(initial)
    dv = torch.empty_like(surprise, dtype=torch.float32)
    _adjoint_kernel[launch.grid[:2]](
        output, q, k, beta, _inverse(launch, k, beta), final, dv, adjoints, d_initial, *launch.sizes, **launch.walk, **launch.options
    )  # fmt: skip
    dq, dk, d_beta = (torch.empty(launch.pieces, *x.shape, dtype=torch.float32, device=x.device) for x in (q, k, beta))
    _bwd_kernel[launch.grid](
        output, q, k, beta, surprise, dv, states, adjoints, dq, dk, d_beta, len(q), *launch.sizes, **launch.walk, **launch.options
    )  # fmt: skip
    return dq.sum(0).to(q.dtype), dk.sum(0).to(k.dtype), dv.to(surprise.dtype), d_beta.sum(0).to(beta.dtype), d_initial


def _configurations(dtype: str) -> list[Configuration]:
    exact = ("p_inverse", "p_states", "p_adjoints", "p_dv", "p_dq", "p_dk", "p_d_beta")
    within = {"CHUNK": CHUNK, "BLOCK_K": 64}
    walk = {**within, "SEGMENT": SEGMENT, "BLOCK_V": BLOCK_V}
    return [
        Configuration.of(_surprise_kernel, dtype, exact, walk, WARPS, STAGES),
        Configuration.of(_inverse_kernel, dtype, exact, within),
        Configuration.of(_adjoint_kernel, dtype, exact, walk, WARPS, STAGES),
        Configuration.of(_bwd_kernel, dtype, exact, walk, WARPS, STAGES),
    ]


CONFIGURATIONS = [configuration for dtype in ("fp32", "bf16") for configuration in _configurations(dtype)]
