"""A byte of codes and its four numbers a lane. Forward reads n, writes n + n / 16; backward reads that, writes n."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from modelzoo.kernels.approximate_backward import FITS
from modelzoo.kernels.registry import Configuration

BLOCK = 256  # bytes


@triton.jit
def _tile(size, BLOCK: tl.constexpr):
    o_byte = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    o_number = o_byte[:, None] * 4 + tl.arange(0, 4)[None, :]
    return o_byte, o_number, o_number < size


@triton.jit
def _fwd_kernel(p_x, p_y, p_codes, size, threshold, GELU: tl.constexpr, BLOCK: tl.constexpr):
    o_byte, o, m = _tile(size, BLOCK)
    i_row = tl.program_id(1).to(tl.int64)
    b_x = tl.load(p_x + i_row * size + o, m, 0.0).to(tl.float32)
    if GELU:  # noqa: SIM108
        b_y = 0.5 * b_x * (1.0 + tl.erf(b_x * 0.7071067811865476))
    else:
        b_y = b_x * tl.sigmoid(b_x)
    tl.store(p_y + i_row * size + o, b_y, m)
    b_code = (b_x > -threshold).to(tl.int32) + (b_x > 0).to(tl.int32) + (b_x > threshold).to(tl.int32)
    b_code = tl.where(m, b_code, 0) << (2 * tl.arange(0, 4))[None, :]
    bytes = tl.cdiv(size, 4)
    tl.store(p_codes + i_row * bytes + o_byte, tl.sum(b_code, 1).to(tl.uint8), o_byte < bytes)


@triton.jit
def _bwd_kernel(p_g, p_codes, p_dx, size, slope, BLOCK: tl.constexpr):
    o_byte, o, m = _tile(size, BLOCK)
    i_row = tl.program_id(1).to(tl.int64)
    bytes = tl.cdiv(size, 4)
    b_codes = tl.load(p_codes + i_row * bytes + o_byte, o_byte < bytes, 0).to(tl.int32)
    b_code = (b_codes[:, None] >> (2 * tl.arange(0, 4))[None, :]) & 3
    b_slope = tl.where(b_code < 2, tl.where(b_code == 0, 0.0, slope), tl.where(b_code == 2, 1.0 - slope, 1.0))
    b_g = tl.load(p_g + i_row * size + o, m, 0.0).to(tl.float32)
    tl.store(p_dx + i_row * size + o, b_g * b_slope, m)


def _grid(codes: Tensor) -> tuple[int, int]:
    return triton.cdiv(codes.shape[1], BLOCK), len(codes)


def forward(x: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """See `reference.forward`."""
    x = x.contiguous()
    y, codes = torch.empty_like(x), x.new_empty(len(x), triton.cdiv(x.shape[1], 4), dtype=torch.uint8)
    if x.numel():
        _fwd_kernel[_grid(codes)](x, y, codes, x.shape[1], FITS[activation][1], GELU=activation == "gelu", BLOCK=BLOCK)
    return y, codes


def backward(gradient: Tensor, codes: Tensor, activation: str) -> Tensor:
    """See `reference.backward`."""
    gradient = gradient.contiguous()
    dx = torch.empty_like(gradient)
    if dx.numel():
        _bwd_kernel[_grid(codes)](gradient, codes, dx, dx.shape[1], FITS[activation][0], BLOCK=BLOCK)
    return dx


CONFIGURATIONS = [
    configuration
    for dtype in ("fp32", "bf16")
    for configuration in (
        Configuration(
            _fwd_kernel, {"p_x": dtype, "p_y": dtype, "p_codes": "u8"}, {"GELU": True, "BLOCK": BLOCK},
            {"size": "i32", "threshold": "fp32"},
        ),
        Configuration(
            _bwd_kernel, {"p_g": dtype, "p_codes": "u8", "p_dx": dtype}, {"BLOCK": BLOCK}, {"size": "i32", "slope": "fp32"}
        ),
    )
]  # fmt: skip
