"""On the CPU: whole matrix products a pair of outputs; for one position two of them, else one of Jacobians.

Against itself only pairs o ≥ p are computed, K_po = K_opᵀ.
"""

import torch
from torch import Tensor


def refused(part: str, *arguments: Tensor | None) -> str:
    """Half precision would be rounded between products."""
    first = arguments[0]
    return (
        "" if first is not None and first.dtype in (torch.float32, torch.float64) else "it is for float32 and float64"
    )


def jacobians(a: Tensor, g: Tensor, bias: bool) -> Tensor:
    """Σ_s g_ons (a_ns, 1)ᵀ, `[O, N, J·(I + bias)]`."""
    if bias:
        a = torch.cat([a, torch.ones_like(a[..., :1])], -1)
    return (g.mT @ a).flatten(2)


def forward(a: Tensor, g: Tensor, a2: Tensor | None, g2: Tensor | None, kernel: Tensor | None, bias: bool) -> Tensor:
    """See `ntk_layer`."""
    symmetric = a2 is None or g2 is None
    a2, g2 = a if a2 is None else a2, g if g2 is None else g2
    if g.shape[2] == 1:
        inner = a[:, 0] @ a2[:, 0].T
        if bias:
            inner += 1
        left, right = g[:, :, 0], g2[:, :, 0]
    else:
        inner = None
        left = jacobians(a, g, bias)
        right = left if symmetric else jacobians(a2, g2, bias)
    out = g.new_empty(len(left), len(right), left.shape[1], right.shape[1])
    for o, own in enumerate(left):
        for p, other in enumerate(right):
            if symmetric and p > o:
                continue
            torch.mm(own, other.T, out=out[o, p])
            if inner is not None:
                out[o, p] *= inner
            if symmetric and p < o:
                out[p, o] = out[o, p].T
    return out if kernel is None else out.add_(kernel)
