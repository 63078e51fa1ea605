"""The recurrence as it is written, step by step. Reads 2 TK + TV + T, writes 2 TV, per head, and both states."""

import torch
from torch import Tensor


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a.unsqueeze(2) * b.unsqueeze(1)


def _apply(state: Tensor, x: Tensor) -> Tensor:
    """Sᵀ x."""
    return (x.unsqueeze(1) @ state).squeeze(1)


def forward(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, initial: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """o, r and the last state."""
    state, outputs, surprises = initial, [], []
    for t in range(q.shape[1]):
        surprises.append(v[:, t] - _apply(state, k[:, t]))
        state = state + _outer(k[:, t], beta[:, t] * surprises[-1])
        outputs.append(_apply(state, q[:, t]))
    return torch.stack(outputs, 1), torch.stack(surprises, 1), state.clone()


def backward(
    output: Tensor, final: Tensor, q: Tensor, k: Tensor, beta: Tensor, surprise: Tensor, initial: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """D ← D + q doᵀ; w = Dᵀ k; dβ = w·r, dv = β w, dk = β (D r - S_{t-1} w); D ← D - β k wᵀ; dq = S do."""
    states = [initial]
    for t in range(q.shape[1]):
        states.append(states[-1] + _outer(k[:, t], beta[:, t] * surprise[:, t]))
    adjoint = final
    dq, dk, dv, d_beta = (torch.empty_like(x) for x in (q, k, surprise, beta))
    for t in reversed(range(q.shape[1])):
        adjoint = adjoint + _outer(q[:, t], output[:, t])
        w = _apply(adjoint, k[:, t])
        d_beta[:, t] = (w * surprise[:, t]).sum(1, keepdim=True)
        dv[:, t] = beta[:, t] * w
        kept = adjoint @ surprise[:, t].unsqueeze(2) - states[t] @ w.unsqueeze(2)
        dk[:, t] = beta[:, t] * kept.squeeze(2)
        dq[:, t] = (states[t + 1] @ output[:, t].unsqueeze(2)).squeeze(2)
        adjoint = adjoint - _outer(k[:, t], dv[:, t])
    return dq, dk, dv, d_beta, adjoint
