"""The delta rule: a linear memory that forgets what it had stored under a key before it stores anew.

Papers: Linear Transformers Are Secretly Fast Weight Programmers (Schlag et al., 2021); Parallelizing Linear Transformers
with the Delta Rule over Sequence Length (Yang et al., 2024).
"""

from typing import Any

import torch
from torch import Tensor

from modelzoo.family import Paper
from modelzoo.kernels.registry import Op, Work, part, register


def delta_rule(queries: Tensor, keys: Tensor, values: Tensor, rate: Tensor, scale: float | None = None) -> Tensor:
    """S_t = S_{t-1} + β_t k_t (v_t - S_{t-1}ᵀ k_t)ᵀ, o_t = scale · S_tᵀ q_t for every head.

    Args:
        queries: q `[B, T, H, K]`.
        keys: k `[B, T, H, K]`; the recurrence is stable where β |k|² ≤ 2, so they are usually normalised.
        values: v `[B, T, H, V]`.
        rate: β `[B, T, H]`.
        scale: of the output, 1/√K by default.

    Returns:
        o `[B, T, H, V]`.

    Raises:
        ValueError: shapes that do not fit.
    """
    batch, time, heads, width = queries.shape
    fits = keys.shape == queries.shape and values.shape[:3] == queries.shape[:3] == rate.shape
    if not fits:
        raise ValueError(f"queries, keys, values and rate do not fit: {list(queries.shape)}, {list(keys.shape)}, {list(values.shape)}, {list(rate.shape)}")  # fmt: skip
    queries = queries * (width**-0.5 if scale is None else scale)
    given = (queries, keys, values, rate.unsqueeze(-1))
    flat = (x.transpose(1, 2).reshape(batch * heads, time, x.shape[3]) for x in given)
    return forward(*flat)[0].view(batch, heads, time, -1).transpose(1, 2)


@part(__name__, fold=True)
def forward(q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """`[N, T, K]`, `[N, T, K]`, `[N, T, V]`, `[N, T, 1]` to o and the surprise r_t = v_t - S_{t-1}ᵀ k_t, `[N, T, V]`."""
    return v.new_empty(v.shape), v.new_empty(v.shape)


@part(__name__, fold=True)
def backward(
    output: Tensor, q: Tensor, k: Tensor, beta: Tensor, surprise: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradient of o to those of q, k, v and β."""
    return q.new_empty(q.shape), k.new_empty(k.shape), surprise.new_empty(surprise.shape), beta.new_empty(beta.shape)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, _, beta = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(q, k, beta, output[1])


def _backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor, ...]:
    return backward(gradient.contiguous(), *ctx.saved_tensors)


forward.register_autograd(_backward, setup_context=_save)


def examples(dtype: torch.dtype, seed: int) -> list[tuple[Any, ...]]:
    """Lengths that fill no chunk, odd widths, rates up to one."""
    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    def case(b: int, t: int, h: int, k: int, v: int) -> tuple[Tensor, ...]:
        keys = random(b, t, h, k)
        given = (
            random(b, t, h, k),
            keys / keys.norm(dim=-1, keepdim=True),
            random(b, t, h, v),
            random(b, t, h).sigmoid(),
        )
        return tuple(x.to(dtype) for x in given)

    return [case(2, 7, 1, 5, 3), (*case(1, 37, 2, 3, 4), 1.0), case(1, 4, 1, 2, 17)]


OP = register(
    Op(
        delta_rule,
        "S_t = S_{t-1} + β_t k_t (v_t - S_{t-1}ᵀ k_t)ᵀ, o_t = S_tᵀ q_t",
        examples,
        Work(
            "B 8, T 4096, H 8, K 64, V 64, float32",
            bytes=4 * 64 * 4096 * 64 * (5 + 10),
            flops=64 * 4096 * 64 * 64 * (6 + 14),
        ),
        (
            Paper("Linear Transformers Are Secretly Fast Weight Programmers", "Schlag et al.", 2021),
            Paper("Parallelizing Linear Transformers with the Delta Rule over Sequence Length", "Yang et al.", 2024),
        ),
    )
)
