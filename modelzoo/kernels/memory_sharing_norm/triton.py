"""One program a row, which stays in registers. Forward reads RC, writes RC + R; backward reads 2 RC + R, writes RC."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from modelzoo.kernels.registry import Configuration

MOST = 16384


@triton.jit
def _fwd_kernel(p_x, p_y, p_scale, width, epsilon, CENTER: tl.constexpr, BLOCK: tl.constexpr):
    i_row, o = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    b = tl.load(p_x + i_row * width + o, o < width, 0.0).to(tl.float32)
    if CENTER:
        b = tl.where(o < width, b - tl.sum(b, 0) / width, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(b * b, 0) / width + epsilon)
    tl.store(p_y + i_row * width + o, b * scale, o < width)
    tl.store(p_scale + i_row, scale)


@triton.jit
def _bwd_kernel(p_g, p_y, p_scale, p_dx, width, CENTER: tl.constexpr, BLOCK: tl.constexpr):
    i_row, o = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    b_g = tl.load(p_g + i_row * width + o, o < width, 0.0).to(tl.float32)
    b_y = tl.load(p_y + i_row * width + o, o < width, 0.0).to(tl.float32)
    b = b_g - b_y * (tl.sum(b_g * b_y, 0) / width)
    if CENTER:
        b -= tl.sum(b_g, 0) / width
    tl.store(p_dx + i_row * width + o, b * tl.load(p_scale + i_row), o < width)


def refused(part: str, *arguments: Tensor) -> str:
    """A row must fit into registers."""
    width = arguments[0].shape[1]
    return f"rows are {width} wide and {MOST} is the most" if width > MOST else ""


def _constants(width: int, center: bool) -> dict[str, int | bool]:
    block = triton.next_power_of_2(width)
    return {"CENTER": center, "BLOCK": block, "num_warps": 4 if block <= 2048 else 16}


def forward(x: Tensor, center: bool, epsilon: float) -> tuple[Tensor, Tensor]:
    """See `reference.forward`."""
    x = x.contiguous()
    y, scale = torch.empty_like(x), torch.empty(len(x), dtype=torch.float32, device=x.device)
    _fwd_kernel[(len(x),)](x, y, scale, x.shape[1], epsilon, **_constants(x.shape[1], center))
    return y, scale


def backward(gradient: Tensor, y: Tensor, scale: Tensor, center: bool) -> Tensor:
    """See `reference.backward`."""
    gradient, y = gradient.contiguous(), y.contiguous()
    dx = torch.empty_like(y)
    _bwd_kernel[(len(y),)](gradient, y, scale, dx, y.shape[1], **_constants(y.shape[1], center))
    return dx


CONFIGURATIONS = [
    configuration
    for dtype in ("fp32", "bf16")
    for configuration in (
        Configuration(
            _fwd_kernel, {"p_x": dtype, "p_y": dtype, "p_scale": "fp32"}, {"CENTER": True, "BLOCK": 1024},
            {"width": "i32", "epsilon": "fp32"},
        ),
        Configuration(
            _bwd_kernel, {"p_g": dtype, "p_y": dtype, "p_scale": "fp32", "p_dx": dtype}, {"CENTER": True, "BLOCK": 1024},
            {"width": "i32"},
        ),
    )
]  # fmt: skip
