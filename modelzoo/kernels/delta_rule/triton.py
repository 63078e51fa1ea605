"""One program a head and block of values steps through time with its state `[K, BLOCK_V]` in registers.

Forward reads 2 TK + TV + T and writes 2 TV. Backward runs twice: back in time with the adjoint state (reads 2 TK + 2 TV,
writes TV and, once a block of values, TK + T), then forward with the state (reads TK + 3 TV, writes 2 TK once a block).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from modelzoo.kernels.registry import Configuration

BLOCK_V, MOST_K = 16, 128


@triton.jit
def _fwd_kernel(
    p_q, p_k, p_v, p_beta, p_o, p_r, time, width, values, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr
):  # fmt: skip
    i_head = tl.program_id(0).to(tl.int64)
    o_k, o_v = tl.arange(0, BLOCK_K), tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    m_k, m_v = o_k < width, o_v < values
    b_state = tl.zeros([BLOCK_K, BLOCK_V], tl.float32)
    for t in range(time):
        i_step = i_head * time + t
        b_q = tl.load(p_q + i_step * width + o_k, m_k, 0.0).to(tl.float32)
        b_k = tl.load(p_k + i_step * width + o_k, m_k, 0.0).to(tl.float32)
        b_v = tl.load(p_v + i_step * values + o_v, m_v, 0.0).to(tl.float32)
        beta = tl.load(p_beta + i_step).to(tl.float32)
        b_r = b_v - tl.sum(b_state * b_k[:, None], 0)
        b_state += b_k[:, None] * (beta * b_r)[None, :]
        tl.store(p_o + i_step * values + o_v, tl.sum(b_state * b_q[:, None], 0), m_v)
        tl.store(p_r + i_step * values + o_v, b_r, m_v)


@triton.jit
def _bwd_adjoint_kernel(
    p_do, p_q, p_k, p_beta, p_r, p_dv, p_dk, p_d_beta, heads, time, width, values, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr
):  # fmt: skip
    """Back in time: dv, and this block's share of dβ and of the part of dk that needs the adjoint."""
    i_head, i_value = tl.program_id(0).to(tl.int64), tl.program_id(1)
    o_k, o_v = tl.arange(0, BLOCK_K), i_value * BLOCK_V + tl.arange(0, BLOCK_V)
    m_k, m_v = o_k < width, o_v < values
    b_adjoint = tl.zeros([BLOCK_K, BLOCK_V], tl.float32)
    for i in range(time):
        i_step = i_head * time + time - 1 - i
        i_share = i_value * heads * time + i_step
        b_q = tl.load(p_q + i_step * width + o_k, m_k, 0.0).to(tl.float32)
        b_k = tl.load(p_k + i_step * width + o_k, m_k, 0.0).to(tl.float32)
        b_do = tl.load(p_do + i_step * values + o_v, m_v, 0.0).to(tl.float32)
        b_r = tl.load(p_r + i_step * values + o_v, m_v, 0.0).to(tl.float32)
        beta = tl.load(p_beta + i_step).to(tl.float32)
        b_adjoint += b_q[:, None] * b_do[None, :]
        b_w = tl.sum(b_adjoint * b_k[:, None], 0)
        tl.store(p_d_beta + i_share, tl.sum(b_w * b_r, 0))
        tl.store(p_dv + i_step * values + o_v, beta * b_w, m_v)
        tl.store(p_dk + i_share * width + o_k, beta * tl.sum(b_adjoint * b_r[None, :], 1), m_k)
        b_adjoint -= b_k[:, None] * (beta * b_w)[None, :]


@triton.jit
def _bwd_state_kernel(
    p_do, p_k, p_beta, p_r, p_dv, p_dq, p_dk, heads, time, width, values, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr
):  # fmt: skip
    """Forward in time: this block's share of dq and of the part of dk that needs the state."""
    i_head, i_value = tl.program_id(0).to(tl.int64), tl.program_id(1)
    o_k, o_v = tl.arange(0, BLOCK_K), i_value * BLOCK_V + tl.arange(0, BLOCK_V)
    m_k, m_v = o_k < width, o_v < values
    b_state = tl.zeros([BLOCK_K, BLOCK_V], tl.float32)
    for t in range(time):
        i_step = i_head * time + t
        i_share = i_value * heads * time + i_step
        b_k = tl.load(p_k + i_step * width + o_k, m_k, 0.0).to(tl.float32)
        b_do = tl.load(p_do + i_step * values + o_v, m_v, 0.0).to(tl.float32)
        b_r = tl.load(p_r + i_step * values + o_v, m_v, 0.0).to(tl.float32)
        b_dv = tl.load(p_dv + i_step * values + o_v, m_v, 0.0).to(tl.float32)
        beta = tl.load(p_beta + i_step).to(tl.float32)
        tl.store(p_dk + i_share * width + o_k, -tl.sum(b_state * b_dv[None, :], 1), m_k)
        b_state += b_k[:, None] * (beta * b_r)[None, :]
        tl.store(p_dq + i_share * width + o_k, tl.sum(b_state * b_do[None, :], 1), m_k)


def refused(part: str, *arguments: Tensor) -> str:
    """A state must fit on chip."""
    width = arguments[0 if part == "forward" else 1].shape[2]
    return f"keys are {width} wide and {MOST_K} is the most" if width > MOST_K else ""


def _blocks(width: int, values: int) -> tuple[int, dict[str, int]]:
    block_v = min(BLOCK_V, triton.next_power_of_2(values))
    constants = {"BLOCK_K": triton.next_power_of_2(width), "BLOCK_V": block_v, "num_warps": 4}
    return triton.cdiv(values, block_v), constants


def forward(q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """See `reference.forward`."""
    q, k, v, beta = (x.contiguous() for x in (q, k, v, beta))
    o, r = torch.empty_like(v), torch.empty_like(v)
    pieces, constants = _blocks(q.shape[2], v.shape[2])
    _fwd_kernel[(len(q), pieces)](q, k, v, beta, o, r, q.shape[1], q.shape[2], v.shape[2], **constants)
    return o, r


def backward(
    output: Tensor, q: Tensor, k: Tensor, beta: Tensor, surprise: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `reference.backward`."""
    output, q, k, beta, surprise = (x.contiguous() for x in (output, q, k, beta, surprise))
    heads, time, width = q.shape
    pieces, constants = _blocks(width, surprise.shape[2])

    def shares(columns: int) -> Tensor:
        return torch.empty(pieces, heads, time, columns, dtype=torch.float32, device=q.device)

    dv, dq, dk_adjoint, dk_state, d_beta = torch.empty_like(surprise), shares(width), shares(width), shares(width), shares(1)  # fmt: skip
    sizes = (heads, time, width, surprise.shape[2])
    grid = (heads, pieces)
    _bwd_adjoint_kernel[grid](output, q, k, beta, surprise, dv, dk_adjoint, d_beta, *sizes, **constants)
    _bwd_state_kernel[grid](output, k, beta, surprise, dv, dq, dk_state, *sizes, **constants)
    dk = dk_adjoint.sum(0) + dk_state.sum(0)
    return dq.sum(0).to(q.dtype), dk.to(k.dtype), dv, d_beta.sum(0).to(beta.dtype)


_BLOCKS = {"BLOCK_K": 64, "BLOCK_V": BLOCK_V}
_SIZES = dict.fromkeys(("time", "width", "values"), "i32")
CONFIGURATIONS = [
    configuration
    for dtype in ("fp32", "bf16")
    for configuration in (
        Configuration(_fwd_kernel, dict.fromkeys(("p_q", "p_k", "p_v", "p_beta", "p_o", "p_r"), dtype), _BLOCKS, _SIZES),
        Configuration(
            _bwd_adjoint_kernel,
            {**dict.fromkeys(("p_do", "p_q", "p_k", "p_beta", "p_r", "p_dv"), dtype), "p_dk": "fp32", "p_d_beta": "fp32"},
            _BLOCKS, {"heads": "i32", **_SIZES},
        ),
        Configuration(
            _bwd_state_kernel,
            {**dict.fromkeys(("p_do", "p_k", "p_beta", "p_r", "p_dv"), dtype), "p_dq": "fp32", "p_dk": "fp32"},
            _BLOCKS, {"heads": "i32", **_SIZES},
        ),
    )
]  # fmt: skip
