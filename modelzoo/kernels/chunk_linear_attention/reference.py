"""The recurrence as it is written, step by step. Reads 2 TK + TV + TK, writes TV, per head, and both states."""

import torch
from torch import Tensor


def forward(q: Tensor, k: Tensor, v: Tensor, g: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    """o_t = S_tᵀ q_t, and the last state."""
    state, outputs = initial, []
    for t in range(q.shape[1]):
        state = g[:, t].exp().unsqueeze(2) * state + k[:, t].unsqueeze(2) * v[:, t].unsqueeze(1)
        outputs.append((q[:, t].unsqueeze(1) @ state).squeeze(1))
    return torch.stack(outputs, 1), state.clone()


def backward(
    output: Tensor, final: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor, initial: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """D_t = q_t do_tᵀ + exp(g_{t+1}) D_{t+1}; dq = S do, dk = D v, dv = Dᵀ k, dg_t = exp(g_t) Σ S_{t-1} ⊙ D_t."""
    states = [initial]
    for t in range(q.shape[1]):
        states.append(g[:, t].exp().unsqueeze(2) * states[-1] + k[:, t].unsqueeze(2) * v[:, t].unsqueeze(1))
    adjoint = final
    dq, dk, dv, dg = (torch.empty_like(x) for x in (q, k, v, g))
    for t in reversed(range(q.shape[1])):
        adjoint = adjoint + q[:, t].unsqueeze(2) * output[:, t].unsqueeze(1)
        dq[:, t] = (states[t + 1] @ output[:, t].unsqueeze(2)).squeeze(2)
        dk[:, t] = (adjoint @ v[:, t].unsqueeze(2)).squeeze(2)
        dv[:, t] = (k[:, t].unsqueeze(1) @ adjoint).squeeze(1)
        decay = g[:, t].exp()
        rows = decay * (states[t] * adjoint).sum(2)
        dg[:, t] = rows.sum(1, keepdim=True) if g.shape[2] == 1 else rows
        adjoint = decay.unsqueeze(2) * adjoint
    return dq, dk, dv, dg, adjoint
