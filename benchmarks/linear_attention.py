"""Linear attention and the delta rule in chunks, forward and backward, against their recurrences step by step.

python benchmarks/linear_attention.py [--json] [--small]
"""

import sys

import torch
from harness import Case, close, random, run, small, with_gradients
from torch import Tensor

from modelzoo.kernels.chunk_linear_attention import chunk_linear_attention
from modelzoo.kernels.delta_rule import delta_rule


def attention_loop(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """As one would write it: S ← exp(g) S + k vᵀ, o = Sᵀ q, heads before time."""
    q, k, v, decay = (x.transpose(1, 2) for x in (q, k, v, decay if decay.ndim == 4 else decay.unsqueeze(3)))
    state, outputs = torch.zeros(*k.shape[:2], k.shape[3], v.shape[3]), []
    for t in range(q.shape[2]):
        state = decay[:, :, t, :, None].exp() * state + k[:, :, t, :, None] * v[:, :, t, None, :]
        outputs.append((q[:, :, t, None, :] @ state).squeeze(2) * q.shape[3] ** -0.5)
    return torch.stack(outputs, 1)


def delta_loop(q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> Tensor:
    """As one would write it: S ← S + β k (v - Sᵀ k)ᵀ, o = Sᵀ q."""
    q, k, v, beta = (x.transpose(1, 2) for x in (q, k, v, beta.unsqueeze(3)))
    state, outputs = torch.zeros(*k.shape[:2], k.shape[3], v.shape[3]), []
    for t in range(q.shape[2]):
        surprise = v[:, :, t, None, :] - k[:, :, t, None, :] @ state
        state = state + k[:, :, t, :, None] * beta[:, :, t, :, None] * surprise
        outputs.append((q[:, :, t, None, :] @ state).squeeze(2) * q.shape[3] ** -0.5)
    return torch.stack(outputs, 1)


def attention(time: int, *per_channel: int) -> Case:
    given = [*(random(2, time, 4, 32, seed=i) for i in range(3)), -random(2, time, 4, *per_channel, seed=3).abs() / 8]
    name = f"chunk_linear_attention, a decay per {'channel' if per_channel else 'head'}, B 2, T {time}, H 4, K 32, V 32"
    sides = (with_gradients(compute, *given) for compute in (chunk_linear_attention, attention_loop))
    return Case(name, *sides, close(1e-3, 2e-2), memory=True, baseline_name="loop")


def delta(time: int) -> Case:
    q, k, v = (random(2, time, 4, 32, seed=i) for i in range(3))
    given = (q, k / k.norm(dim=-1, keepdim=True), v, random(2, time, 4, seed=3).sigmoid())
    sides = (with_gradients(compute, *given) for compute in (delta_rule, delta_loop))
    return Case(f"delta_rule, B 2, T {time}, H 4, K 32, V 32", *sides, close(1e-3, 1e-3), memory=True, baseline_name="loop")  # fmt: skip


if __name__ == "__main__":
    time = 40 if small() else 1024
    sys.exit(run("linear_attention", [attention(time), attention(time, 32), delta(time)]))
