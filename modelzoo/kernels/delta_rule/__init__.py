"""The delta rule: a linear memory that forgets what it had stored under a key before it stores anew.

Papers: Linear Transformers Are Secretly Fast Weight Programmers (Schlag et al., 2021); Parallelizing Linear Transformers
with the Delta Rule over Sequence Length (Yang et al., 2024).
"""

from typing import Any, Literal, overload

import torch
from torch import Tensor

from modelzoo.family import Paper
from modelzoo.kernels.registry import Op, Work, part, register


@overload
def delta_rule(
    queries: Tensor, keys: Tensor, values: Tensor, rate: Tensor, scale: float | None = None, initial: Tensor | None = None,
    final: Literal[False] = False,
) -> Tensor: ...  # fmt: skip


@overload
def delta_rule(
    queries: Tensor, keys: Tensor, values: Tensor, rate: Tensor, scale: float | None, initial: Tensor | None, final: Literal[True]
) -> tuple[Tensor, Tensor]: ...  # fmt: skip


def delta_rule(
    queries: Tensor, keys: Tensor, values: Tensor, rate: Tensor, scale: float | None = None, initial: Tensor | None = None,
    final: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """S_t = S_{t-1} + β_t k_t (v_t - S_{t-1}ᵀ k_t)ᵀ, o_t = scale · S_tᵀ q_t for every head.

    Args:
        queries: q `[B, T, H, K]`.
        keys: k `[B, T, H, K]`; the recurrence is stable where β |k|² ≤ 2, so they are usually normalised.
        values: v `[B, T, H, V]`.
        rate: β `[B, T, H]`.
        scale: of the output, 1/√K by default.
        initial: S_0 `[B, H, K, V]`; None for zero.
        final: whether the last state is wanted.

    Returns:
        o `[B, T, H, V]`; with `final` also S_T `[B, H, K, V]`.

    Raises:
        ValueError: shapes that do not fit.
    """
    batch, time, heads, width = queries.shape
    fits = keys.shape == queries.shape and values.shape[:3] == queries.shape[:3] == rate.shape
    if not fits:
        raise ValueError(f"queries, keys, values and rate do not fit: {list(queries.shape)}, {list(keys.shape)}, {list(values.shape)}, {list(rate.shape)}")  # fmt: skip
    state = (batch, heads, width, values.shape[3])
    if initial is None:
        initial = values.new_zeros(state)
    if initial.shape != state:
        raise ValueError(f"initial must be [B, H, K, V], {list(state)}, got {list(initial.shape)}")
    queries = queries * (width**-0.5 if scale is None else scale)
    given = (queries, keys, values, rate.unsqueeze(-1))
    flat = (x.transpose(1, 2).reshape(batch * heads, time, x.shape[3]) for x in given)
    output, _, last = forward(*flat, initial.reshape(-1, *state[2:]))
    output = output.view(batch, heads, time, -1).transpose(1, 2)
    return (output, last.view(state)) if final else output


@part(__name__, fold=True)
def forward(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, initial: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`[N, T, K]`, `[N, T, K]`, `[N, T, V]`, `[N, T, 1]` and `[N, K, V]` to o and the surprise r_t = v_t - S_{t-1}ᵀ k_t,
    `[N, T, V]`, and the last state.
    """
    return v.new_empty(v.shape), v.new_empty(v.shape), initial.new_empty(initial.shape)


@part(__name__, fold=True)
def backward(
    output: Tensor, final: Tensor, q: Tensor, k: Tensor, beta: Tensor, surprise: Tensor, initial: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of o and the last state to those of q, k, v, β and the first state."""
    q, k, v, beta, initial = (x.new_empty(x.shape) for x in (q, k, surprise, beta, initial))
    return q, k, v, beta, initial


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, _, beta, initial = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(q, k, beta, output[1], initial)


def _backward(ctx: Any, output: Tensor, _: Tensor | None, final: Tensor) -> tuple[Tensor, ...]:
    return backward(output.contiguous(), final.contiguous(), *ctx.saved_tensors)


forward.register_autograd(_backward, setup_context=_save)


def examples(dtype: torch.dtype, seed: int) -> list[tuple[Any, ...]]:
    """Lengths that fill no chunk, odd widths, rates up to one, states that come in and go out."""
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

    state = random(1, 1, 3, 4).to(dtype)
    return [case(1, 5, 2, 5, 3), (*case(1, 11, 1, 3, 4), 1.0, state, True), case(1, 4, 1, 2, 17)]


def typical() -> tuple[Any, ...]:
    """Arguments of the size that `Work` names."""
    q, k, v = (torch.randn(8, 4096, 8, 64) for _ in range(3))
    return q, torch.nn.functional.normalize(k, dim=-1), v, torch.rand(8, 4096, 8)


OP = register(
    Op(
        delta_rule,
        "S_t = S_{t-1} + β_t k_t (v_t - S_{t-1}ᵀ k_t)ᵀ, o_t = S_tᵀ q_t",
        examples,
        Work(
            "B 8, T 4096, H 8, K 64, V 64, float32",
            bytes=4 * 64 * 4096 * 64 * (5 + 10),
            flops=64 * 4096 * 64 * 64 * (6 + 14),
            arguments=typical,
        ),
        (
            Paper("Linear Transformers Are Secretly Fast Weight Programmers", "Schlag et al.", 2021),
            Paper("Parallelizing Linear Transformers with the Delta Rule over Sequence Length", "Yang et al.", 2024),
        ),
    )
)
