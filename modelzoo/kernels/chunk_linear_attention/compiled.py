"""On the CPU: chunks as matrix products; only the state between chunks is sequential.

Every exponent is a sum of log-decays over a stretch of time, hence ≤ 0: strong decay underflows and never overflows.
"""

import torch
from torch import Tensor

SCALAR, CHANNEL = 64, 16  # steps of a chunk, for a decay per head and per channel


def refused(part: str, *arguments: Tensor) -> str:
    """Half precision would be rounded between products."""
    return "" if arguments[0].dtype in (torch.float32, torch.float64) else "it is for float32 and float64"


def _cut(x: Tensor, length: int) -> Tensor:
    """`[N, T, ·]` to `[N, n, length, ·]`, filled up with zeros."""
    return torch.nn.functional.pad(x, (0, 0, 0, -x.shape[1] % length)).unflatten(1, (-1, length))


def _within(q: Tensor, k: Tensor, total: Tensor) -> Tensor:
    """Scores A_ij = Σ q_i k_j exp(G_i - G_j) for j ≤ i of every chunk, `[N, n, c, c]`."""
    if total.shape[3] == 1:
        return (q @ k.mT) * _decays(total)
    scores = q.new_zeros(*q.shape[:3], q.shape[2])
    for j in range(q.shape[2]):
        faded = (total[:, :, j:] - total[:, :, j : j + 1]).exp_()
        scores[:, :, j:, j] = (faded.mul_(q[:, :, j:]) @ k[:, :, j].unsqueeze(-1)).squeeze(-1)
    return scores


def _decays(total: Tensor) -> Tensor:
    """exp(G_i - G_j) for j ≤ i, else 0."""
    lower = torch.ones(total.shape[2], total.shape[2], dtype=torch.bool).tril()
    return torch.where(lower, total - total.mT, float("-inf")).exp_()


def _states(added: Tensor, whole: Tensor, reverse: bool) -> Tensor:
    """State before every chunk (after it, if `reverse`), `[N, n, K, V]`."""
    states = torch.zeros_like(added)
    order = range(added.shape[1] - 1, 0, -1) if reverse else range(added.shape[1] - 1)
    for n in order:
        torch.addcmul(added[:, n], whole[:, n].mT, states[:, n], out=states[:, n - 1 if reverse else n + 1])
    return states


def forward(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """o = exp(G) q S + A v."""
    time = q.shape[1]
    q, k, v, g = (_cut(x, SCALAR if g.shape[2] == 1 else CHANNEL) for x in (q, k, v, g))
    total = g.cumsum(2)
    whole = total[:, :, -1:]
    states = _states((k * (whole - total).exp()).mT @ v, whole.exp(), reverse=False)
    return ((q * total.exp()) @ states + _within(q, k, total) @ v).flatten(1, 2)[:, :time].contiguous()


def backward(output: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dg_t = Σ_{s ≥ t} (q_s ⊙ dq_s - k_s ⊙ dk_s): a query is faded by all decays up to it, a key by all after it."""
    time, scalar = q.shape[1], g.shape[2] == 1
    o, q, k, v, g = (_cut(x, SCALAR if scalar else CHANNEL) for x in (output, q, k, v, g))
    total = g.cumsum(2)
    whole = total[:, :, -1:]
    entering, leaving = total.exp(), (whole - total).exp()
    faded = k * leaving
    states = _states(faded.mT @ v, whole.exp(), reverse=False)
    adjoints = _states((q * entering).mT @ o, whole.exp(), reverse=True)
    dv = _within(q, k, total).mT @ o + faded @ adjoints
    dq, dk = (o @ states.mT).mul_(entering), (v @ adjoints.mT).mul_(leaving)
    scores = o @ v.mT
    if scalar:
        scores = scores * _decays(total)
        dq += scores @ k
        dk += scores.mT @ q
    else:
        for j in range(q.shape[2]):
            own = (total[:, :, j:] - total[:, :, j : j + 1]).exp_().mul_(scores[:, :, j:, j : j + 1])
            dq[:, :, j:].addcmul_(own, k[:, :, j : j + 1])
            dk[:, :, j] += (own * q[:, :, j:]).sum(2)
    moved = q * dq - k * dk
    dq, dk, dv, moved = (x.flatten(1, 2)[:, :time].contiguous() for x in (dq, dk, dv, moved))
    if scalar:
        moved = moved.sum(2, keepdim=True)
    return dq, dk, dv, moved.flip(1).cumsum(1).flip(1)
