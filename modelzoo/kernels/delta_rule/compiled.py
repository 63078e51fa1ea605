"""On the CPU: chunks as matrix products; within one, the surprises solve a triangular system.

r_i = v_i - S₀ᵀ k_i - Σ_{j<i} (k_i·k_j) β_j r_j, that is (I + tril(K Kᵀ, -1) diag β) R = V - K S₀.
"""

import torch
from torch import Tensor

CHUNK = 32


def refused(part: str, *arguments: Tensor) -> str:
    """Triangular systems have no half precision."""
    return "" if arguments[0].dtype in (torch.float32, torch.float64) else "it is for float32 and float64"


def _cut(*tensors: Tensor) -> list[Tensor]:
    """`[N, T, ·]` to `[N, n, CHUNK, ·]`, filled up with zeros."""
    return [torch.nn.functional.pad(x, (0, 0, 0, -x.shape[1] % CHUNK)).unflatten(1, (-1, CHUNK)) for x in tensors]


def forward(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, initial: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """o, r and the last state."""
    time = q.shape[1]
    q, k, v, beta = _cut(q, k, v, beta)
    system = (k @ k.mT).tril(-1) * beta.mT  # its diagonal of ones is implied
    scores = (q @ k.mT).tril() * beta.mT
    o, r = torch.empty_like(v), torch.empty_like(v)
    state = initial.clone()
    for n in range(q.shape[1]):
        given = v[:, n] - k[:, n] @ state
        r[:, n] = torch.linalg.solve_triangular(system[:, n], given, upper=False, unitriangular=True)
        o[:, n] = torch.baddbmm(q[:, n] @ state, scores[:, n], r[:, n])
        state = torch.baddbmm(state, k[:, n].mT, beta[:, n] * r[:, n])
    return o.flatten(1, 2)[:, :time].contiguous(), r.flatten(1, 2)[:, :time].contiguous(), state


def backward(
    output: Tensor, final: Tensor, q: Tensor, k: Tensor, beta: Tensor, surprise: Tensor, initial: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The adjoint of every equation of `forward`, the transposed system among them; dv solves it."""
    time = q.shape[1]
    o, q, k, beta, r = _cut(output, q, k, beta, surprise)
    w = beta * r
    states = r.new_empty(*q.shape[:2], *initial.shape[1:])
    states[:, 0] = initial
    for n in range(q.shape[1] - 1):
        torch.baddbmm(states[:, n], k[:, n].mT, w[:, n], out=states[:, n + 1])
    gram, scores = (k @ k.mT).tril(-1), (q @ k.mT).tril()
    system = (gram * beta.mT).mT
    dv, d_state = torch.empty_like(r), torch.empty_like(states)
    adjoint = final
    dw = scores.mT @ o
    for n in range(q.shape[1] - 1, -1, -1):
        d_state[:, n] = adjoint
        dw[:, n] += k[:, n] @ adjoint
        dv[:, n] = torch.linalg.solve_triangular(system[:, n], beta[:, n] * dw[:, n], upper=True, unitriangular=True)
        adjoint = torch.baddbmm(adjoint, q[:, n].mT, o[:, n]).baddbmm_(k[:, n].mT, dv[:, n], alpha=-1)
    # dv is the gradient of the right side of the system, hence minus that of gram ⊙ w
    d_scores, d_gram = (o @ w.mT).tril(), -(dv @ w.mT).tril(-1)
    dq = o @ states.mT + d_scores @ k
    dk = d_scores.mT @ q + (d_gram + d_gram.mT) @ k - dv @ states.mT + w @ d_state.mT
    d_beta = ((dw - gram.mT @ dv) * r).sum(3, keepdim=True)
    dq, dk, dv, d_beta = (x.flatten(1, 2)[:, :time].contiguous() for x in (dq, dk, dv, d_beta))
    return dq, dk, dv, d_beta, adjoint
