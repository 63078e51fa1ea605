"""One LSTM layer for a population: every model has its own sequences and its own weights.

Paper: Long Short-Term Memory (Hochreiter and Schmidhuber, 1997).
"""

from typing import Any

import torch
from torch import Tensor

from modelzoo.family import Paper
from modelzoo.kernels.registry import Op, Work, part, register


def population_lstm(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """(i, f, g, o) = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh, c_t = σ(f) c_{t-1} + σ(i) tanh(g), h_t = σ(o) tanh(c_t).

    Args:
        x: `[M, B, T, I]`.
        w_ih: `[M, 4h, I]`.
        w_hh: `[M, 4h, h]`.
        b_ih: `[M, 4h]`.
        b_hh: `[M, 4h]`.

    Returns:
        All states h_t, `[M, B, T, h]`; differentiable once.

    Raises:
        ValueError: shapes do not fit.
    """
    gates = (x.shape[0], 4 * w_hh.shape[2])
    if not w_ih.shape == (*gates, x.shape[3]) or not w_hh.shape[:2] == b_ih.shape == b_hh.shape == gates:
        raise ValueError(f"weights {list(w_ih.shape)} and {list(w_hh.shape)} or their biases do not fit {list(x.shape)}")  # fmt: skip
    return forward(x, w_ih, w_hh, b_ih, b_hh)[0]


@part(__name__, fold=True)
def forward(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> tuple[Tensor, Tensor]:
    """States, and the cells c_t that the backward pass needs, `[M, B, T, h]` each."""
    shape = (*x.shape[:3], w_hh.shape[2])
    return x.new_empty(shape), x.new_empty(shape)


@part(__name__, fold=True)
def backward(
    gradient: Tensor, states: Tensor, cells: Tensor, x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, inner: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x (of no models unless `inner`), of both weights and of either bias from that of the states."""
    dx = x.new_empty(len(x) if inner else 0, *x.shape[1:])
    return dx, w_ih.new_empty(w_ih.shape), w_hh.new_empty(w_hh.shape), b_ih.new_empty(b_ih.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # no zeros for the cells
    ctx.save_for_backward(*output, *inputs)


def _backward(ctx: Any, gradient: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return (None,) * 5
    inner = ctx.needs_input_grad[0]
    dx, dw_ih, dw_hh, db = backward(gradient.contiguous(), *ctx.saved_tensors, inner)
    return dx if inner else None, dw_ih, dw_hh, db, db


forward.register_autograd(_backward, setup_context=_save)


def examples(dtype: torch.dtype, seed: int) -> list[tuple[Any, ...]]:
    """Odd sizes, one step, one unit, more sequences than are taken at a time."""
    draw = torch.Generator().manual_seed(seed)

    def case(models: int, batch: int, time: int, inner: int, hidden: int) -> tuple[Any, ...]:
        gates = 4 * hidden
        shapes = [(batch, time, inner), (gates, inner), (gates, hidden), (gates,), (gates,)]
        return tuple(torch.randn(models, *shape, generator=draw, dtype=torch.float64).to(dtype) for shape in shapes)

    return [case(2, 3, 4, 2, 5), case(3, 2, 1, 9, 1), case(1, 27, 3, 1, 8)]


OP = register(
    Op(
        population_lstm,
        "c_t = σ(f) c_{t-1} + σ(i) tanh(g), h_t = σ(o) tanh(c_t), (i, f, g, o) = W x_t + U h_{t-1} + b",
        examples,
        Work(
            "M 64, B 64, T 64, I 2, h 32, float32",
            bytes=4 * 64 * 64 * 64 * (2 * 2 + 5 * 32),
            flops=6 * 64 * 64 * 64 * 128 * 34,
        ),
        (Paper("Long Short-Term Memory", "Hochreiter and Schmidhuber", 1997),),
        without_triton="not written: a step must wait for the whole state of the one before, batched products do as well",
    )
)
