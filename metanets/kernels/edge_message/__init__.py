"""Messages along the edges of a graph: gathered, modulated, updated and summed without being stored.

Paper: Neural Message Passing for Quantum Chemistry (Gilmer et al., 2017); Graph Neural Networks for Learning Equivariant
Representations of Neural Networks (Kofinas et al., 2024).
"""

from typing import Any, Literal

import torch
from torch import Tensor

from modelzoo.family import Paper
from modelzoo.kernels.registry import Op, Work, part, register

ACTIVATIONS = ("identity", "relu", "silu")


def edge_message(
    nodes: Tensor,
    gain: Tensor,
    shift: Tensor,
    target: Tensor,
    source: Tensor,
    offsets: Tensor,
    activation: Literal["identity", "relu", "silu"] = "silu",
    update: bool = True,
) -> tuple[Tensor, Tensor]:
    """u_e = act(gain_e ⊙ x_source(e) + shift_e + y_target(e)), pooled_v = Σ_{e into v} u_e.

    Edges are sorted by target; several models of one graph are channels.

    Args:
        nodes: x, `[N, C]`.
        gain: `[E, C]`.
        shift: `[E, C]`.
        target: y, `[V, C]`, one row a target.
        source: `[E]` int64, row of `nodes` where an edge comes from.
        offsets: `[V + 1]` int64, edges `offsets[v] … offsets[v + 1] - 1` lead into v.
        activation: identity, relu or silu.
        update: whether the updated edges are wanted; if not, nothing of their size is stored.

    Returns:
        pooled `[V, C]` and the updated edges u `[E, C]` (`[0, C]` without `update`).

    Raises:
        ValueError: an unknown activation, or edges, targets and offsets that do not fit.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation of edge_message must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if not len(gain) == len(shift) == len(source) or len(offsets) != len(target) + 1:
        raise ValueError("edge_message needs gain, shift and source of one length, and one offset more than targets")
    return forward(nodes, gain, shift, target, source, offsets, activation, update)


@part(__name__)
def forward(
    nodes: Tensor, gain: Tensor, shift: Tensor, target: Tensor, source: Tensor, offsets: Tensor, activation: str, update: bool
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See `edge_message`."""
    return target.new_empty(target.shape), shift.new_empty(shift.shape if update else (0, shift.shape[1]))


@part(__name__)
def backward(
    pooled: Tensor, updated: Tensor, nodes: Tensor, gain: Tensor, shift: Tensor, target: Tensor, source: Tensor, offsets: Tensor,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of pooled `[V, C]` and updated (`[E, C]` or `[0, C]`) to those of nodes, gain, shift and target."""
    nodes, gain, shift, target = (x.new_empty(x.shape) for x in (nodes, gain, shift, target))
    return nodes, gain, shift, target


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.activation = inputs[6]
    ctx.set_materialize_grads(True)


def _backward(ctx: Any, pooled: Tensor, updated: Tensor) -> tuple[Tensor | None, ...]:
    return *backward(pooled, updated, *ctx.saved_tensors, ctx.activation), None, None, None, None


forward.register_autograd(_backward, setup_context=_save)


def examples(dtype: torch.dtype, seed: int) -> list[tuple[Any, ...]]:
    """A graph with a target that nothing enters and one that many edges enter; one without edges."""
    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)

    def case(counts: list[int], n: int, channels: int) -> tuple[Any, ...]:
        fixed = torch.Generator().manual_seed(7)  # one graph for every seed
        edges, offsets = sum(counts), torch.tensor([0, *counts]).cumsum(0)
        source = torch.randint(n, (edges,), generator=fixed)
        return random(n, channels), random(edges, channels), random(edges, channels), random(len(counts), channels), source, offsets  # fmt: skip

    return [
        (*case([3, 0, 17, 1, 2], 6, 5), "silu"),
        (*case([2, 4], 3, 33), "relu", False),
        (*case([5, 1, 1], 4, 2), "identity", True),
        (*case([0, 0], 2, 3), "silu"),
    ]


def typical() -> tuple[Any, ...]:
    """Arguments of the size that `Work` names."""
    nodes, gain, shift, target = (torch.randn(rows, 64 * 64) for rows in (67, 1185, 1185, 67))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), (torch.arange(67) + 1) * 1185 // 67])
    return nodes, gain, shift, target, torch.randint(67, (1185,)), offsets, "silu", False


OP = register(
    Op(
        edge_message,
        "u_e = act(gain_e ⊙ x_source(e) + shift_e + y_target(e)), pooled_v = Σ_{e into v} u_e",
        examples,
        Work(
            "64 models of 1,185 edges and 67 nodes, 64 channels, float32, without update",
            bytes=4 * 64 * 64 * (2 * 1185 + 3 * 67 + 2 * 1185 + 2 * 1185 + 4 * 67),
            flops=64 * 64 * 1185 * (4 + 8),
            arguments=typical,
        ),
        (
            Paper("Neural Message Passing for Quantum Chemistry", "Gilmer et al.", 2017),
            Paper(
                "Graph Neural Networks for Learning Equivariant Representations of Neural Networks",
                "Kofinas et al.",
                2024,
            ),
        ),
    )
)
