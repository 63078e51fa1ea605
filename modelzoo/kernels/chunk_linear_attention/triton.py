"""Segments of a sequence side by side, each one program a head and block of values with its state `[K, BLOCK_V]` in registers.

Four launches forward: what every segment adds to the state and its product of decays (reads TK + TV + TK); the states
that enter segments, one after the other (small); scores within chunks (reads 3 TK); every segment from its true start
(reads 2 TK + TV + TK, writes TV). Backward repeats the first two, does them for the adjoint state too, and has the gradients
in two launches, pairs within a chunk and the rest, whose 2 TK + TK a block of values a small sum reduces. Between segments
of 64 steps KV / 64 numbers a step pass through memory.

Decays over a stretch of time are products of factors ≤ 1, or exponentials of sums of exactly their logarithms: nothing
overflows, and every entry keeps its relative precision.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from modelzoo.kernels.registry import Configuration

SEGMENT, CHUNK, BLOCK_V, MOST_K = 64, 16, 16, 128
WARPS, STAGES = 8, 1  # with fewer warps or more stages products in full float32 spill


@triton.jit
def chunks_of(i_segment, time, SEGMENT: tl.constexpr, CHUNK: tl.constexpr):
    """How many chunks of a segment are not empty."""
    return tl.minimum(SEGMENT // CHUNK, tl.cdiv(time - i_segment * SEGMENT, CHUNK))


@triton.jit
def load(p, i_head, o_time, o_column, time, columns):
    """Rows and columns of `[N, T, ·]`, zero outside."""
    m = (o_time < time)[:, None] & (o_column < columns)[None, :]
    return tl.load(p + (i_head * time + o_time[:, None]) * columns + o_column[None, :], m, 0.0).to(tl.float32)


@triton.jit
def store(p, i_head, o_time, o_column, time, columns, b):
    """The other way."""
    m = (o_time < time)[:, None] & (o_column < columns)[None, :]
    tl.store(p + (i_head * time + o_time[:, None]) * columns + o_column[None, :], b, m)


@triton.jit
def _gates(p_g, i_head, o_time, o_k, time, width, CHANNEL: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr):
    """Log-decay of a chunk `[CHUNK, BLOCK_K]`; decay from its start to a step, from the step to its end, of all of it."""
    m_next = tl.arange(0, CHUNK) < CHUNK - 1
    if CHANNEL:
        b_g = load(p_g, i_head, o_time, o_k, time, width)
        b_next = tl.where(m_next[:, None], load(p_g, i_head, o_time + 1, o_k, time, width), 0.0)
    else:
        b_own = tl.load(p_g + i_head * time + o_time, o_time < time, 0.0).to(tl.float32)
        b_then = tl.load(p_g + i_head * time + o_time + 1, m_next & (o_time + 1 < time), 0.0).to(tl.float32)
        b_g = tl.zeros([CHUNK, BLOCK_K], tl.float32) + b_own[:, None]
        b_next = tl.zeros([CHUNK, BLOCK_K], tl.float32) + b_then[:, None]
    return b_g, tl.exp(tl.cumsum(b_g, 0)), tl.exp(tl.cumsum(b_next, 0, reverse=True)), tl.exp(tl.sum(b_g, 0))


@triton.jit
def row(b, j, CHUNK: tl.constexpr):
    """Row j of a tile, zero if there is none."""
    return tl.sum(tl.where((tl.arange(0, CHUNK) == j)[:, None], b, 0.0), 0)


@triton.jit
def _fade(b_faded, b_decay, j, CHUNK: tl.constexpr):
    """Decays from step j to the steps i ≥ j, else 0, from those of step j + 1."""
    o = tl.arange(0, CHUNK)[:, None]
    return tl.where(o > j, b_faded * row(b_decay, j + 1, CHUNK)[None, :], tl.where(o == j, 1.0, 0.0))


@triton.jit
def _decays(b_g, CHUNK: tl.constexpr):
    """Decays from j to i ≥ j, else 0, `[CHUNK, CHUNK]`, where they are the same in every column."""
    o = tl.arange(0, CHUNK)
    b_gaps = tl.cumsum(tl.where(o[:, None] > o[None, :], tl.max(b_g, 1)[:, None], 0.0), 0)
    return tl.where(o[:, None] >= o[None, :], tl.exp(b_gaps), 0.0)


@triton.jit
def _summary_kernel(
    p_row, p_column, p_g, p_added, p_whole, time, width, values, segments,
    ADJOINT: tl.constexpr, CHANNEL: tl.constexpr, SEGMENT: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """What a segment adds to the state (keys and values), or to the adjoint state (queries and gradients)."""
    i_head, i_value, i_segment = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    o_k, o_v = tl.arange(0, BLOCK_K), i_value * BLOCK_V + tl.arange(0, BLOCK_V)
    b_state = tl.zeros([BLOCK_K, BLOCK_V], tl.float32)
    b_product = tl.zeros([BLOCK_K], tl.float32) + 1.0
    chunks = chunks_of(i_segment, time, SEGMENT, CHUNK)
    for i in range(chunks):
        i_chunk = chunks - 1 - i if ADJOINT else i
        o_time = i_segment * SEGMENT + i_chunk * CHUNK + tl.arange(0, CHUNK)
        b_row = load(p_row, i_head, o_time, o_k, time, width)
        b_column = load(p_column, i_head, o_time, o_v, time, values)
        _, b_entering, b_leaving, b_whole = _gates(p_g, i_head, o_time, o_k, time, width, CHANNEL, CHUNK, BLOCK_K)
        b_row = tl.trans(b_row * (b_entering if ADJOINT else b_leaving))
        b_state = b_whole[:, None] * b_state + tl.dot(b_row, b_column, input_precision="ieee")
        b_product = b_product * b_whole
    i_edge = (i_head * segments + i_segment) * width
    tl.store(p_added + (i_edge + o_k[:, None]) * values + o_v[None, :], b_state, (o_k < width)[:, None] & (o_v < values)[None, :])  # fmt: skip
    if i_value == 0:
        tl.store(p_whole + i_edge + o_k, b_product, o_k < width)


@triton.jit
def _join_kernel(
    p_added, p_whole, p_edge, p_last, width, values, segments, REVERSE: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr
):  # fmt: skip
    """Replace what every segment adds by the state that enters it."""
    i_head = tl.program_id(0).to(tl.int64)
    o_k, o_v = tl.arange(0, BLOCK_K), tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    m_state = (o_k < width)[:, None] & (o_v < values)[None, :]
    o_state = o_k[:, None] * values + o_v[None, :]
    b_state = tl.load(p_edge + i_head * width * values + o_state, m_state, 0.0).to(tl.float32)
    for i in range(segments):
        i_edge = (i_head * segments + (segments - 1 - i if REVERSE else i)) * width
        b_added = tl.load(p_added + i_edge * values + o_state, m_state, 0.0)
        tl.store(p_added + i_edge * values + o_state, b_state, m_state)
        b_state = tl.load(p_whole + i_edge + o_k, o_k < width, 0.0)[:, None] * b_state + b_added
    tl.store(p_last + i_head * width * values + o_state, b_state, m_state)


@triton.jit
def _scores_kernel(
    p_q, p_k, p_g, p_scores, time, width, CHANNEL: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr
):  # fmt: skip
    """Scores between a query and the keys of its chunk, `[N, T, CHUNK]`."""
    i_head, i_chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    o, o_k = tl.arange(0, CHUNK), tl.arange(0, BLOCK_K)
    o_time = i_chunk * CHUNK + o
    b_q = load(p_q, i_head, o_time, o_k, time, width)
    b_k = load(p_k, i_head, o_time, o_k, time, width)
    b_g, _, _, _ = _gates(p_g, i_head, o_time, o_k, time, width, CHANNEL, CHUNK, BLOCK_K)
    if CHANNEL:
        b_scores = tl.zeros([CHUNK, CHUNK], tl.float32)
        b_faded, b_decay = tl.zeros([CHUNK, BLOCK_K], tl.float32), tl.exp(b_g)
        for step in range(CHUNK):
            j = CHUNK - 1 - step
            b_faded = _fade(b_faded, b_decay, j, CHUNK)
            b_own = tl.sum(b_q * b_faded * row(b_k, j, CHUNK)[None, :], 1)
            b_scores += tl.where((o == j)[None, :], b_own[:, None], 0.0)
    else:
        b_scores = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * _decays(b_g, CHUNK)
    store(p_scores, i_head, o_time, o, time, CHUNK, b_scores)


@triton.jit
def _fwd_kernel(
    p_q, p_k, p_v, p_g, p_scores, p_states, p_o, time, width, values, segments,
    CHANNEL: tl.constexpr, SEGMENT: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    i_head, i_segment = tl.program_id(0).to(tl.int64), tl.program_id(2)
    o, o_k, o_v = tl.arange(0, CHUNK), tl.arange(0, BLOCK_K), tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    b_state = load(p_states, i_head * segments + i_segment, o_k, o_v, width, values)
    for i in range(chunks_of(i_segment, time, SEGMENT, CHUNK)):
        o_time = i_segment * SEGMENT + i * CHUNK + o
        b_q = load(p_q, i_head, o_time, o_k, time, width)
        b_k = load(p_k, i_head, o_time, o_k, time, width)
        b_v = load(p_v, i_head, o_time, o_v, time, values)
        _, b_entering, b_leaving, b_whole = _gates(p_g, i_head, o_time, o_k, time, width, CHANNEL, CHUNK, BLOCK_K)
        b_o = tl.dot(load(p_scores, i_head, o_time, o, time, CHUNK), b_v, input_precision="ieee")
        b_o += tl.dot(b_q * b_entering, b_state, input_precision="ieee")
        store(p_o, i_head, o_time, o_v, time, values, b_o)
        b_state = b_whole[:, None] * b_state + tl.dot(tl.trans(b_k * b_leaving), b_v, input_precision="ieee")


@triton.jit
def _bwd_pairs_kernel(
    p_do, p_q, p_k, p_v, p_g, p_scores, p_dq, p_dk, p_dg, time, width, values,
    CHANNEL: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Scores again, and what the pairs within a chunk give to dq, dk and dg."""
    i_head, i_chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    o, o_k = tl.arange(0, CHUNK), tl.arange(0, BLOCK_K)
    o_time = i_chunk * CHUNK + o
    b_given = tl.zeros([CHUNK, CHUNK], tl.float32)
    for start in range(0, values, BLOCK_V):
        o_v = start + tl.arange(0, BLOCK_V)
        b_do = load(p_do, i_head, o_time, o_v, time, values)
        b_v = load(p_v, i_head, o_time, o_v, time, values)
        b_given += tl.dot(b_do, tl.trans(b_v), input_precision="ieee")
    b_q = load(p_q, i_head, o_time, o_k, time, width)
    b_k = load(p_k, i_head, o_time, o_k, time, width)
    b_g, _, _, _ = _gates(p_g, i_head, o_time, o_k, time, width, CHANNEL, CHUNK, BLOCK_K)
    if CHANNEL:
        b_scores = tl.zeros([CHUNK, CHUNK], tl.float32)
        b_faded, b_decay = tl.zeros([CHUNK, BLOCK_K], tl.float32), tl.exp(b_g)
        b_dq, b_dk, b_dg = b_faded, b_faded, b_faded
        for step in range(CHUNK):
            j = CHUNK - 1 - step
            b_faded = _fade(b_faded, b_decay, j, CHUNK)
            b_key = row(b_k, j, CHUNK)[None, :]
            b_own = b_q * b_faded
            b_scores += tl.where((o == j)[None, :], tl.sum(b_own * b_key, 1)[:, None], 0.0)
            b_here = tl.sum(tl.where((o == j)[None, :], b_given, 0.0), 1)[:, None]
            b_dq += b_here * b_faded * b_key
            b_own = b_own * b_here
            b_dk += tl.where((o == j)[:, None], tl.sum(b_own, 0)[None, :], 0.0)
            b_later = tl.cumsum(tl.where((o > j)[:, None], b_own * b_key, 0.0), 0, reverse=True)
            b_dg += tl.where((o > j)[:, None], b_later, 0.0)
        store(p_dg, i_head, o_time, o_k, time, width, b_dg)
    else:
        b_decays = _decays(b_g, CHUNK)
        b_products = tl.dot(b_q, tl.trans(b_k), input_precision="ieee")
        b_scores, b_given = b_products * b_decays, b_given * b_decays
        m_earlier = o[:, None] > o[None, :]
        b_pairs = tl.cumsum(tl.where(m_earlier, b_products * b_given, 0.0), 0, reverse=True)
        tl.store(p_dg + i_head * time + o_time, tl.sum(tl.where(m_earlier, b_pairs, 0.0), 1), o_time < time)
        b_dq = tl.dot(b_given, b_k, input_precision="ieee")
        b_dk = tl.dot(tl.trans(b_given), b_q, input_precision="ieee")
    store(p_scores, i_head, o_time, o, time, CHUNK, b_scores)
    store(p_dq, i_head, o_time, o_k, time, width, b_dq)
    store(p_dk, i_head, o_time, o_k, time, width, b_dk)


@triton.jit
def _bwd_kernel(
    p_do, p_q, p_k, p_v, p_g, p_scores, p_states, p_adjoints, p_dq, p_dk, p_dv, p_dg, heads, time, width, values, segments,
    CHANNEL: tl.constexpr, SEGMENT: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Back through a segment: dv, and what this block's states give to dq, dk and dg; see `compiled.backward`."""
    i_head, i_value, i_segment = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    i_share = (i_value + 1) * heads + i_head
    o, o_k, o_v = tl.arange(0, CHUNK), tl.arange(0, BLOCK_K), i_value * BLOCK_V + tl.arange(0, BLOCK_V)
    b_adjoint = load(p_adjoints, i_head * segments + i_segment, o_k, o_v, width, values)
    b_earlier = tl.where(o[:, None] > o[None, :], 1.0, 0.0)  # a product with it sums over earlier steps
    chunks = chunks_of(i_segment, time, SEGMENT, CHUNK)
    for i in range(chunks):
        i_chunk = chunks - 1 - i
        b_state = load(p_states, i_head * segments + i_segment, o_k, o_v, width, values)
        for before in range(i_chunk):  # the state that enters the chunk, again: cheaper than to store it
            o_time = i_segment * SEGMENT + before * CHUNK + o
            b_k = load(p_k, i_head, o_time, o_k, time, width)
            b_v = load(p_v, i_head, o_time, o_v, time, values)
            _, _, b_leaving, b_whole = _gates(p_g, i_head, o_time, o_k, time, width, CHANNEL, CHUNK, BLOCK_K)
            b_state = b_whole[:, None] * b_state + tl.dot(tl.trans(b_k * b_leaving), b_v, input_precision="ieee")
        o_time = i_segment * SEGMENT + i_chunk * CHUNK + o
        _, b_entering, b_leaving, b_whole = _gates(p_g, i_head, o_time, o_k, time, width, CHANNEL, CHUNK, BLOCK_K)
        b_do = load(p_do, i_head, o_time, o_v, time, values)
        b_q = load(p_q, i_head, o_time, o_k, time, width)
        # neither key nor query in the chunk, the query in it, the key in it
        b_dg = tl.zeros([CHUNK, BLOCK_K], tl.float32) + b_whole[None, :] * tl.sum(b_state * b_adjoint, 1)[None, :]
        b_dq = tl.dot(b_do, tl.trans(b_state), input_precision="ieee") * b_entering
        store(p_dq, i_share, o_time, o_k, time, width, b_dq)
        b_dg += tl.cumsum(b_q * b_dq, 0, reverse=True)
        b_added = tl.dot(tl.trans(b_q * b_entering), b_do, input_precision="ieee")
        b_k = load(p_k, i_head, o_time, o_k, time, width)
        b_dv = tl.dot(b_k * b_leaving, b_adjoint, input_precision="ieee")
        b_scores = load(p_scores, i_head, o_time, o, time, CHUNK)
        store(p_dv, i_head, o_time, o_v, time, values, b_dv + tl.dot(tl.trans(b_scores), b_do, input_precision="ieee"))
        b_v = load(p_v, i_head, o_time, o_v, time, values)
        b_dk = tl.dot(b_v, tl.trans(b_adjoint), input_precision="ieee") * b_leaving
        store(p_dk, i_share, o_time, o_k, time, width, b_dk)
        b_dg += tl.dot(b_earlier, b_k * b_dk, input_precision="ieee")
        if CHANNEL:
            store(p_dg, i_share, o_time, o_k, time, width, b_dg)
        else:
            tl.store(p_dg + i_share * time + o_time, tl.sum(b_dg, 1), o_time < time)
        b_adjoint = b_whole[:, None] * b_adjoint + b_added


def refused(part: str, *arguments: Tensor) -> str:
    """A state must fit on chip."""
    width = arguments[0 if part == "forward" else 2].shape[2]
    return f"keys are {width} wide and {MOST_K} is the most" if width > MOST_K else ""


class Launch:
    """Grid and constants for tensors of one size."""

    def __init__(self, k: Tensor, v: Tensor, g: Tensor) -> None:
        heads, time, width = k.shape
        values = v.shape[2]
        self.state = (heads, triton.cdiv(time, SEGMENT), width, values)
        self.sizes = (time, width, values, self.state[1])
        self.blocks = {"BLOCK_K": max(16, triton.next_power_of_2(width)), "BLOCK_V": BLOCK_V}
        self.within = {"CHANNEL": g.shape[2] > 1, "CHUNK": CHUNK, "BLOCK_K": self.blocks["BLOCK_K"]}
        self.walk = {"SEGMENT": SEGMENT, "CHUNK": CHUNK, **self.blocks}
        self.constants = {**self.walk, "CHANNEL": self.within["CHANNEL"]}
        self.options = {"num_warps": WARPS, "num_stages": STAGES}
        self.pieces = triton.cdiv(values, BLOCK_V)
        self.grid = (heads, self.pieces, self.state[1])
        self.chunks = (heads, triton.cdiv(time, CHUNK))

    def states(self, row: Tensor, column: Tensor, g: Tensor, edge: Tensor, adjoint: bool) -> tuple[Tensor, Tensor]:
        """States that enter segments `[N, n, K, V]`, and the last one in the dtype of the first."""
        added = torch.empty(self.state, dtype=torch.float32, device=row.device)
        whole, last = added.new_empty(self.state[:3]), torch.empty_like(edge)
        _summary_kernel[self.grid](row, column, g, added, whole, *self.sizes, ADJOINT=adjoint, **self.constants, **self.options)  # fmt: skip
        _join_kernel[self.grid[:2]](added, whole, edge, last, *self.sizes[1:], REVERSE=adjoint, **self.blocks, num_warps=4)  # fmt: skip
        return added, last

    def outputs(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, states: Tensor) -> Tensor:
        """o from the states that enter segments."""
        scores, o = self.scores(q), torch.empty_like(v)
        _scores_kernel[self.chunks](q, k, g, scores, *self.sizes[:2], **self.within, **self.options)
        _fwd_kernel[self.grid](q, k, v, g, scores, states, o, *self.sizes, **self.constants, **self.options)
        return o

    def scores(self, q: Tensor) -> Tensor:
        """Room for the scores of `_scores_kernel`."""
        return torch.empty(*q.shape[:2], CHUNK, dtype=torch.float32, device=q.device)


def forward(q: Tensor, k: Tensor, v: Tensor, g: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    """See `reference.forward`."""
    q, k, v, g, initial = (x.contiguous() for x in (q, k, v, g, initial))
    launch = Launch(k, v, g)
    states, final = launch.states(k, v, g, initial, False)
    return launch.outputs(q, k, v, g, states), final


def backward(
    output: Tensor, final: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor, initial: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `reference.backward`."""
    output, final, q, k, v, g, initial = (x.contiguous() for x in (output, final, q, k, v, g, initial))
    launch, dv = Launch(k, v, g), torch.empty_like(v)
    states, _ = launch.states(k, v, g, initial, False)
    adjoints, d_initial = launch.states(q, output, g, final, True)
    dq, dk, dg = (torch.empty(1 + launch.pieces, *x.shape, dtype=torch.float32, device=x.device) for x in (q, k, g))
    scores = launch.scores(q)
    _bwd_pairs_kernel[launch.chunks](
        output, q, k, v, g, scores, dq, dk, dg, *launch.sizes[:3], **launch.within, BLOCK_V=BLOCK_V, **launch.options
    )  # fmt: skip
    _bwd_kernel[launch.grid](
        output, q, k, v, g, scores, states, adjoints, dq, dk, dv, dg, len(q), *launch.sizes, **launch.constants, **launch.options
    )  # fmt: skip
    return dq.sum(0).to(q.dtype), dk.sum(0).to(k.dtype), dv, dg.sum(0).to(g.dtype), d_initial


def _configurations(dtype: str, channel: bool) -> list[Configuration]:
    within = {"CHANNEL": channel, "CHUNK": CHUNK, "BLOCK_K": 64}
    constants = {**within, "SEGMENT": SEGMENT, "BLOCK_V": BLOCK_V}
    exact = ("p_scores", "p_states", "p_adjoints", "p_dq", "p_dk", "p_dg", "p_added", "p_whole")

    return [
        Configuration.of(_fwd_kernel, dtype, exact, constants, WARPS, STAGES),
        Configuration.of(_scores_kernel, dtype, exact, within, WARPS, STAGES),
        *(Configuration.of(_summary_kernel, dtype, exact, {"ADJOINT": a, **constants}, WARPS, STAGES) for a in (False, True)),
        Configuration.of(_join_kernel, dtype, exact, {"REVERSE": True, "BLOCK_K": 64, "BLOCK_V": BLOCK_V}),
        Configuration.of(_bwd_pairs_kernel, dtype, exact, {**within, "BLOCK_V": BLOCK_V}, WARPS, STAGES),
        Configuration.of(_bwd_kernel, dtype, exact, constants, WARPS, STAGES),
    ]  # fmt: skip


CONFIGURATIONS = [c for dtype in ("fp32", "bf16") for channel in (True, False) for c in _configurations(dtype, channel)]
