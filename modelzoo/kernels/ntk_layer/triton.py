"""A tile of the kernel a program: the product of activations times that of gradients, never stored apart.

Reads NI + MI + ONJ + PMJ (through the cache) and OPNM, writes OPNM. For more than one position the Jacobians of the layer
are formed first, by a batched matrix product, and the kernel is one product of those.
"""

import triton
import triton.language as tl
from torch import Tensor

from modelzoo.kernels.ntk_layer.compiled import jacobians
from modelzoo.kernels.registry import Configuration

BLOCK, BLOCK_R, STAGES = 32, 32, 2


@triton.jit
def _product(p_left, p_right, o_n, o_m, n, m, width, BLOCK: tl.constexpr, BLOCK_R: tl.constexpr):
    """Rows of the left times rows of the right, `[BLOCK, BLOCK]`."""
    b_sum = tl.zeros([BLOCK, BLOCK], tl.float32)
    for start in range(0, width, BLOCK_R):
        o_r = start + tl.arange(0, BLOCK_R)
        m_r = (o_r < width)[None, :]
        b_left = tl.load(p_left + o_n[:, None] * width + o_r[None, :], (o_n < n)[:, None] & m_r, 0.0)
        b_right = tl.load(p_right + o_m[:, None] * width + o_r[None, :], (o_m < m)[:, None] & m_r, 0.0)
        b_sum += tl.dot(b_left.to(tl.float32), tl.trans(b_right.to(tl.float32)), input_precision="ieee")
    return b_sum


@triton.jit
def _fwd_kernel(
    p_a, p_a2, p_g, p_g2, p_kernel, p_out, others, n, m, width_a, width_g, bias,
    INNER: tl.constexpr, KERNEL: tl.constexpr, SYMMETRIC: tl.constexpr, BLOCK: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    i_pair = tl.program_id(2)
    i_o, i_p = (i_pair // others).to(tl.int64), (i_pair % others).to(tl.int64)
    if SYMMETRIC and i_p > i_o:
        return
    o_n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    o_m = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_tile = (o_n < n)[:, None] & (o_m < m)[None, :]
    b = _product(p_g + i_o * n * width_g, p_g2 + i_p * m * width_g, o_n, o_m, n, m, width_g, BLOCK, BLOCK_R)
    if INNER:
        b *= _product(p_a, p_a2, o_n, o_m, n, m, width_a, BLOCK, BLOCK_R) + bias
    o_tile = (i_o * others + i_p) * n * m + o_n[:, None] * m + o_m[None, :]
    o_mirror = (i_p * others + i_o) * n * m + o_m[None, :] * n + o_n[:, None]
    b_mirror = b
    if KERNEL:
        b += tl.load(p_kernel + o_tile, m_tile, 0.0).to(tl.float32)
        if SYMMETRIC:
            b_mirror += tl.load(p_kernel + o_mirror, m_tile, 0.0).to(tl.float32)
    tl.store(p_out + o_tile, b, m_tile)
    if SYMMETRIC and i_p < i_o:
        tl.store(p_out + o_mirror, b_mirror, m_tile)


def forward(a: Tensor, g: Tensor, a2: Tensor | None, g2: Tensor | None, kernel: Tensor | None, bias: bool) -> Tensor:
    """See `ntk_layer`."""
    symmetric = a2 is None or g2 is None
    a2, g2 = a if a2 is None else a2, g if g2 is None else g2
    inner = g.shape[2] == 1
    if inner:
        left, right = g[:, :, 0].contiguous(), g2[:, :, 0].contiguous()
    else:
        left = jacobians(a.float(), g.float(), bias)
        right = left if symmetric else jacobians(a2.float(), g2.float(), bias)
    (outputs, n, width), (others, m, _) = left.shape, right.shape
    out = g.new_empty(outputs, others, n, m)
    given = kernel if kernel is None else kernel.contiguous()
    _fwd_kernel[(triton.cdiv(n, BLOCK), triton.cdiv(m, BLOCK), outputs * others)](
        a.contiguous() if inner else None, a2.contiguous() if inner else None, left, right, given, out, others, n, m, a.shape[2],
        width, float(bias), INNER=inner, KERNEL=kernel is not None, SYMMETRIC=symmetric, BLOCK=BLOCK, BLOCK_R=BLOCK_R,
        num_warps=4, num_stages=STAGES,
    )  # fmt: skip
    return out


def _configuration(dtype: str, inner: bool) -> Configuration:
    side = dtype if inner else None
    pointers = {"p_a": side, "p_a2": side, "p_g": dtype, "p_g2": dtype, "p_kernel": dtype, "p_out": dtype}
    constants = {"INNER": inner, "KERNEL": True, "SYMMETRIC": True, "BLOCK": BLOCK, "BLOCK_R": BLOCK_R}
    scalars = {**dict.fromkeys(("others", "n", "m", "width_a", "width_g"), "i32"), "bias": "fp32"}
    return Configuration(_fwd_kernel, pointers, constants, scalars, stages=STAGES)


CONFIGURATIONS = [_configuration("fp32", True), _configuration("bf16", True), _configuration("fp32", False)]
