"""Reads RC, writes RC + R; backward reads 2 RC + R, writes RC."""

import torch
from torch import Tensor


def forward(x: Tensor, center: bool, epsilon: float) -> tuple[Tensor, Tensor]:
    """y and 1/σ."""
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    if center:
        exact = exact - exact.mean(1, keepdim=True)
    scale = (exact.square().mean(1) + epsilon).rsqrt()
    return (exact * scale.unsqueeze(1)).to(x.dtype), scale


def backward(gradient: Tensor, y: Tensor, scale: Tensor, center: bool) -> Tensor:
    """dx = (g - mean g - y mean(g ⊙ y)) / σ; without centring there is no mean g."""
    g, own = gradient.to(scale.dtype), y.to(scale.dtype)
    left = g - own * (g * own).mean(1, keepdim=True)
    if center:
        left = left - g.mean(1, keepdim=True)
    return (left * scale.unsqueeze(1)).to(y.dtype)
