"""First-order linear recurrences along time.

Papers: Resurrecting Recurrent Neural Networks for Long Sequences (Orvieto et al., 2023); Were RNNs All We Needed?
(Feng et al., 2024); Prefix Sums and Their Applications (Blelloch, 1990).
"""

from typing import Any

import torch
from torch import Tensor

from modelzoo.family import Paper
from modelzoo.kernels.registry import Op, Work, part, register


def linear_scan(decay: Tensor, inputs: Tensor, initial: Tensor | None = None, reverse: bool = False) -> Tensor:
    """h_t = a_t ⊙ h_{t-1} + x_t for every t, real or complex; with `reverse` h_t = a_t ⊙ h_{t+1} + x_t.

    On a GPU long sequences are cut into chunks that are scanned side by side; a product of decays over one chunk must then
    fit the dtype, which it does for |a| ≤ 1.

    Args:
        decay: a, broadcast against `inputs`; `[channel]` for a recurrence that does not change with time.
        inputs: x `[…, time, channel]`.
        initial: state before the first step (after the last, if `reverse`), `[…, channel]`; None for zero.
        reverse: run from the last step to the first.

    Returns:
        All states, `[…, time, channel]`; the last one, with which another scan may go on, is `[…, -1, :]` (`[…, 0, :]` if
        `reverse`). Every derivative exists.

    Raises:
        ValueError: the decay does not broadcast against the inputs.
    """
    if inputs.ndim < 2:
        raise ValueError(f"inputs of linear_scan must be [..., time, channel], got {list(inputs.shape)}")
    dtype = torch.promote_types(decay.dtype, inputs.dtype)
    inputs, decay = inputs.to(dtype), decay.to(dtype).expand(inputs.shape)
    if initial is not None:
        last = inputs.shape[-2] - 1
        edge, others = (last, slice(0, last)) if reverse else (0, slice(1, None))
        first = inputs[..., edge, :] + decay[..., edge, :] * initial.to(dtype)
        parts = [first.unsqueeze(-2), inputs[..., others, :]]
        inputs = torch.cat(parts[::-1] if reverse else parts, -2)
    flat = (decay.reshape(-1, *decay.shape[-2:]), inputs.reshape(-1, *inputs.shape[-2:]))
    return forward(*flat, reverse).view(inputs.shape)


@part(__name__, fold=True)
def forward(decay: Tensor, inputs: Tensor, reverse: bool) -> Tensor:
    """Decay and inputs `[B, T, C]` to states `[B, T, C]`."""
    return torch.empty_like(inputs, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], output)
    ctx.reverse = inputs[2]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    """d_t = g_t + conj(a_{t+1}) d_{t+1}, a scan the other way; dx = d, da_t = d_t conj(h_{t-1})."""
    decay, states = ctx.saved_tensors
    zero = torch.zeros_like(states[:, :1])
    later = torch.cat([zero, decay[:, :-1]] if ctx.reverse else [decay[:, 1:], zero], 1)
    before = torch.cat([states[:, 1:], zero] if ctx.reverse else [zero, states[:, :-1]], 1)
    carried = forward(later.conj().resolve_conj(), gradient.contiguous(), not ctx.reverse)
    return carried * before.conj(), carried, None


forward.register_autograd(_backward, setup_context=_save)


def examples(dtype: torch.dtype, seed: int) -> list[tuple[Any, ...]]:
    """Odd lengths and widths, both directions, complex numbers, states that come in."""
    draw = torch.Generator().manual_seed(seed)
    double = dtype in (torch.float32, torch.float64)

    def random(*shape: int, complex: bool = False) -> Tensor:
        real = torch.randn(*shape, 2 if complex else 1, generator=draw, dtype=torch.float64)
        value = torch.view_as_complex(real) if complex else real.squeeze(-1)
        return value.to((torch.complex128 if dtype == torch.float64 else torch.complex64) if complex else dtype)

    def decays(*shape: int, complex: bool = False) -> Tensor:
        value = random(*shape, complex=complex)
        return value / (1 + value.abs())

    cases: list[tuple[Any, ...]] = [
        (decays(2, 7, 3), random(2, 7, 3)),
        (decays(2, 13, 5), random(2, 13, 5), None, True),
        (decays(3), random(1, 9, 3), random(1, 3)),
    ]
    if double:
        cases.append((decays(1, 9, 3, complex=True), random(1, 9, 3, complex=True)))
        cases.append((decays(1, 5, 2, complex=True), random(1, 5, 2, complex=True), random(1, 2, complex=True), True))
    return cases


def typical() -> tuple[Any, ...]:
    """Arguments of the size that `Work` names."""
    return torch.rand(8, 4096, 1024), torch.randn(8, 4096, 1024)


OP = register(
    Op(
        linear_scan,
        "h_t = a_t ⊙ h_{t-1} + x_t",
        examples,
        Work(
            "B 8, T 4096, C 1024, float32", bytes=8 * 4 * 8 * 4096 * 1024, flops=5 * 8 * 4096 * 1024, arguments=typical
        ),
        (
            Paper("Resurrecting Recurrent Neural Networks for Long Sequences", "Orvieto et al.", 2023, "S054"),
            Paper("Were RNNs All We Needed?", "Feng et al.", 2024, "S068"),
        ),
    )
)
