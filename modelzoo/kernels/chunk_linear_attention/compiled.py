"""On the CPU: chunks as matrix products; only the state between chunks is sequential.

Decays over a stretch of time are products of factors ≤ 1, or exponentials of sums of exactly their logarithms, and never
quotients: strong decay underflows, never overflows, and every entry keeps its relative precision.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

SCALAR, CHANNEL = 64, 16  # steps of a chunk, for a decay per head and per channel


def refused(part: str, *arguments: Tensor) -> str:
    """Half precision would be rounded between products."""
    return "" if arguments[0].dtype in (torch.float32, torch.float64) else "it is for float32 and float64"


def _cut(x: Tensor, length: int) -> Tensor:
    """`[N, T, ·]` to `[N, n, length, ·]`, filled up with zeros."""
    return torch.nn.functional.pad(x, (0, 0, 0, -x.shape[1] % length)).unflatten(1, (-1, length))


def _before(x: Tensor) -> Tensor:
    """Sums over all earlier steps of a chunk."""
    return torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :, :-1].cumsum(2)


def _from(x: Tensor) -> Tensor:
    """Sums over a step of a chunk and all later ones."""
    return x.flip(2).cumsum(2).flip(2)


def _after(x: Tensor) -> Tensor:
    """Sums over all later steps of a chunk."""
    return _before(x.flip(2)).flip(2)


def _faded(g: Tensor) -> Iterator[tuple[int, Tensor]]:
    """For every step j of the chunks, the last one first, the decays Π_{j<s≤i} exp(g_s) for i ≥ j, `[N, n, c - j, K]`."""
    decay, faded = g.exp(), torch.ones_like(g)
    for j in reversed(range(g.shape[2])):
        faded[:, :, j + 1 :] *= decay[:, :, j + 1 : j + 2]
        yield j, faded[:, :, j:]


def _decays(g: Tensor) -> Tensor:
    """exp(Σ_{j<s≤i} g_s) for j ≤ i, else 0, `[N, n, c, c]`, of a decay per head."""
    later = torch.ones(g.shape[2], g.shape[2], dtype=torch.bool).tril(-1)
    return torch.where(later, g, 0).cumsum(2).exp_().tril_()


def _within(q: Tensor, k: Tensor, g: Tensor) -> Tensor:
    """Scores A_ij = Σ q_i k_j exp(Σ_{j<s≤i} g_s) for j ≤ i of every chunk, `[N, n, c, c]`."""
    if g.shape[3] == 1:
        return (q @ k.mT) * _decays(g)
    scores = q.new_zeros(*q.shape[:3], q.shape[2])
    for j, faded in _faded(g):
        scores[:, :, j:, j] = ((q[:, :, j:] * faded) @ k[:, :, j].unsqueeze(-1)).squeeze(-1)
    return scores


def _states(added: Tensor, whole: Tensor, edge: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """State before every chunk (after it, if `reverse`) `[N, n, K, V]`, and the one that leaves the last."""
    states = torch.empty_like(added)
    for n in reversed(range(added.shape[1])) if reverse else range(added.shape[1]):
        states[:, n] = edge
        edge = torch.addcmul(added[:, n], whole[:, n].mT, edge)
    return states, edge


def forward(q: Tensor, k: Tensor, v: Tensor, g: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    """o = exp(G) q S + A v, and the last state."""
    time = q.shape[1]
    q, k, v, g = (_cut(x, SCALAR if g.shape[2] == 1 else CHANNEL) for x in (q, k, v, g))
    whole = g.sum(2, keepdim=True).exp()
    states, final = _states((k * _after(g).exp()).mT @ v, whole, initial, reverse=False)
    o = (q * g.cumsum(2).exp()) @ states + _within(q, k, g) @ v
    return o.flatten(1, 2)[:, :time].contiguous(), final


def backward(
    output: Tensor, final: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor, initial: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dg_t is the sum over all pairs of a key before t and a query at t or later; pairs on one side are left out.

    They would cancel, but in rounding. Key and query are both in the chunk, or either, or neither.
    """
    time, scalar = q.shape[1], g.shape[2] == 1
    o, q, k, v, g = (_cut(x, SCALAR if scalar else CHANNEL) for x in (output, q, k, v, g))
    entering, leaving, whole = g.cumsum(2).exp(), _after(g).exp(), g.sum(2, keepdim=True).exp()
    faded = k * leaving
    states, _ = _states(faded.mT @ v, whole, initial, reverse=False)
    adjoints, d_initial = _states((q * entering).mT @ o, whole, final, reverse=True)
    dv = faded @ adjoints
    dq, dk = (o @ states.mT).mul_(entering), (v @ adjoints.mT).mul_(leaving)
    dg = _from(q * dq) + _before(k * dk) + (states * adjoints).sum(3).unsqueeze(2).mul_(whole)
    given = o @ v.mT
    if scalar:
        dg = dg.sum(3, keepdim=True)
        decays = _decays(g)
        scores, given = (q @ k.mT) * decays, given * decays
        dv += scores.mT @ o
        pairs = ((q @ k.mT) * given).tril_(-1)
        dg += _from(pairs).tril_(-1).sum(3, keepdim=True)
        dq += given @ k
        dk += given.mT @ q
    else:
        scores, from_here = torch.zeros_like(given), torch.ones_like(given[0, 0]).triu_()
        for j, decays in _faded(g):
            own = decays * q[:, :, j:]
            scores[:, :, j:, j] = (own @ k[:, :, j].unsqueeze(-1)).squeeze(-1)
            own *= given[:, :, j:, j : j + 1]
            dk[:, :, j] += own.sum(2)
            dq[:, :, j:] += (decays * given[:, :, j:, j : j + 1]).mul_(k[:, :, j : j + 1])
            later = own[:, :, 1:].mul_(k[:, :, j : j + 1])
            dg[:, :, j + 1 :] += from_here[: later.shape[2], : later.shape[2]] @ later
        dv += scores.mT @ o
    dq, dk, dv, dg = (x.flatten(1, 2)[:, :time].contiguous() for x in (dq, dk, dv, dg))
    return dq, dk, dv, dg, d_initial
