"""Linear attention with decay, in chunks.

Papers: Transformers are RNNs (Katharopoulos et al., 2020); Retentive Network: A Successor to Transformer for Large
Language Models (Sun et al., 2023); HGRN2: Gated Linear RNNs with State Expansion (Qin et al., 2024); Gated Linear Attention
Transformers with Hardware-Efficient Training (Yang et al., 2024).
"""

from typing import Any, Literal, overload

import torch
from torch import Tensor

from modelzoo.family import Paper
from modelzoo.kernels.registry import Op, Work, part, register


@overload
def chunk_linear_attention(
    queries: Tensor, keys: Tensor, values: Tensor, log_decay: Tensor | None = None, scale: float | None = None,
    initial: Tensor | None = None, final: Literal[False] = False,
) -> Tensor: ...  # fmt: skip


@overload
def chunk_linear_attention(
    queries: Tensor, keys: Tensor, values: Tensor, log_decay: Tensor | None, scale: float | None, initial: Tensor | None,
    final: Literal[True],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip


def chunk_linear_attention(
    queries: Tensor, keys: Tensor, values: Tensor, log_decay: Tensor | None = None, scale: float | None = None,
    initial: Tensor | None = None, final: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """S_t = exp(g_t) S_{t-1} + k_t v_tᵀ, o_t = scale · S_tᵀ q_t for every head.

    Args:
        queries: q `[B, T, H, K]`.
        keys: k `[B, T, H, K]`.
        values: v `[B, T, H, V]`.
        log_decay: g ≤ 0, whose exponential scales the state: None (no decay: the linear transformer), `[H]` (RetNet),
            `[B, T, H]`, or `[B, T, H, K]`, one for every row of the state (HGRN2).
        scale: of the output, 1/√K by default.
        initial: S_0 `[B, H, K, V]`; None for zero.
        final: whether the last state is wanted.

    Returns:
        o `[B, T, H, V]`; with `final` also S_T `[B, H, K, V]`.

    Raises:
        ValueError: shapes that do not fit.
    """
    batch, time, heads, width = queries.shape
    if keys.shape != queries.shape or values.shape[:3] != queries.shape[:3]:
        raise ValueError(f"queries, keys and values do not fit: {list(queries.shape)}, {list(keys.shape)}, {list(values.shape)}")  # fmt: skip
    if log_decay is None:
        log_decay = queries.new_zeros(heads)
    if log_decay.ndim == 1:
        log_decay = log_decay.expand(batch, time, heads)
    if log_decay.ndim == 3:
        log_decay = log_decay.unsqueeze(-1)
    if log_decay.shape not in ((batch, time, heads, 1), queries.shape):
        raise ValueError(f"log_decay must be [H], [B, T, H] or [B, T, H, K], got {list(log_decay.shape)}")
    state = (batch, heads, width, values.shape[3])
    if initial is None:
        initial = values.new_zeros(state)
    if initial.shape != state:
        raise ValueError(f"initial must be [B, H, K, V], {list(state)}, got {list(initial.shape)}")
    queries = queries * (width**-0.5 if scale is None else scale)
    flat = (x.transpose(1, 2).reshape(batch * heads, time, x.shape[3]) for x in (queries, keys, values, log_decay))
    output, last = forward(*flat, initial.reshape(-1, *state[2:]))
    output = output.view(batch, heads, time, -1).transpose(1, 2)
    return (output, last.view(state)) if final else output


@part(__name__, fold=True)
def forward(q: Tensor, k: Tensor, v: Tensor, g: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    """`[N, T, K]`, `[N, T, K]`, `[N, T, V]`, `[N, T, 1 or K]` and `[N, K, V]` to `[N, T, V]` and `[N, K, V]`."""
    return v.new_empty(v.shape), initial.new_empty(initial.shape)


@part(__name__, fold=True)
def backward(
    output: Tensor, final: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor, initial: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of output and last state to those of q, k, v, g and the first state."""
    q, k, v, g, initial = (x.new_empty(x.shape) for x in (q, k, v, g, initial))
    return q, k, v, g, initial


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, output: Tensor, final: Tensor) -> tuple[Tensor, ...]:
    return backward(output.contiguous(), final.contiguous(), *ctx.saved_tensors)


forward.register_autograd(_backward, setup_context=_save)


def examples(dtype: torch.dtype, seed: int) -> list[tuple[Any, ...]]:
    """Every kind of decay, lengths that fill no chunk, states that come in and go out, decay by exp(-40) a step."""
    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)

    def case(b: int, t: int, h: int, k: int, v: int) -> tuple[Tensor, Tensor, Tensor]:
        return random(b, t, h, k), random(b, t, h, k), random(b, t, h, v)

    return [
        (*case(1, 11, 1, 5, 3), -random(1, 11, 1).abs() / 4),
        (*case(1, 5, 1, 4, 7), -random(1, 5, 1, 4).abs()),
        (*case(1, 3, 2, 3, 17), -random(2).abs() / 8, 1.0),
        (*case(1, 10, 1, 3, 3), -40 - random(1, 10, 1, 3).abs(), None, random(1, 1, 3, 3), True),
        (*case(1, 11, 1, 2, 3), -40 * random(1, 11, 1).abs(), None, random(1, 1, 2, 3), True),
    ]


def typical() -> tuple[Any, ...]:
    """Arguments of the size that `Work` names."""
    q, k, v, g = (torch.randn(8, 4096, 8, 64) for _ in range(4))
    return q, k, v, -g.abs()


OP = register(
    Op(
        chunk_linear_attention,
        "S_t = exp(g_t) S_{t-1} + k_t v_tᵀ, o_t = S_tᵀ q_t",
        examples,
        Work(
            "B 8, T 4096, H 8, K 64, V 64, a decay per channel, float32",
            bytes=4 * 64 * 4096 * 64 * (5 + 9),
            flops=64 * 4096 * 3 * (2 * 2 * 64 * 64 + 2 * 2 * 16 * 64),
            arguments=typical,
        ),
        (
            Paper("Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention", "Katharopoulos et al.", 2020),
            Paper("Retentive Network: A Successor to Transformer for Large Language Models", "Sun et al.", 2023, "S092"),
            Paper("HGRN2: Gated Linear RNNs with State Expansion", "Qin et al.", 2024, "S170"),
        ),
    )
)  # fmt: skip
