"""Batched matrix products over models, the backward pass written out, and `population_adam`."""

from math import pi

import torch
from torch import Tensor
from torch.nn import functional as F

from modelzoo.kernels.population_adam import population_adam


def activate(z: Tensor, activation: str) -> Tensor:
    """act(z)."""
    return {"relu": torch.relu, "tanh": torch.tanh, "sin": torch.sin, "gelu": F.gelu}[activation](z)


def slope(z: Tensor, activation: str) -> Tensor:
    """act'(z)."""
    if activation == "relu":
        return (z > 0).to(z.dtype)
    if activation == "tanh":
        return 1 - z.tanh().square()
    if activation == "sin":
        return z.cos()
    return (1 + torch.erf(z / 2**0.5)) / 2 + z * torch.exp(-z.square() / 2) / (2 * pi) ** 0.5


def gradients(
    weights: list[Tensor], biases: list[Tensor], x: Tensor, y: Tensor, activation: str, frequency: float
) -> tuple[Tensor, list[Tensor]]:
    """Loss `[M]` and its gradients to all weights and then all biases."""
    entering, before, h = [], [], x
    for layer, (w, b) in enumerate(zip(weights, biases, strict=True)):
        entering.append(h)
        h = b.unsqueeze(1) + h @ w.mT
        if layer < len(weights) - 1:
            before.append(frequency * h)
            h = activate(before[-1], activation)
    if y.is_floating_point():
        losses, d = (h - y).square().mean((1, 2)), 2 * (h - y) / (h.shape[1] * h.shape[2])
    else:
        chosen, logarithms = F.one_hot(y, h.shape[2]).to(h.dtype), h.log_softmax(2)
        losses, d = -(chosen * logarithms).sum(2).mean(1), (logarithms.exp() - chosen) / h.shape[1]
    d_weights, d_biases = [], []
    for layer in reversed(range(len(weights))):
        d_weights.append(d.mT @ entering[layer])
        d_biases.append(d.sum(1))
        if layer:
            d = (d @ weights[layer]) * slope(before[layer - 1], activation) * frequency
    return losses, d_weights[::-1] + d_biases[::-1]


def train(
    weights: list[Tensor], biases: list[Tensor], first: list[Tensor], second: list[Tensor], inputs: Tensor, targets: Tensor,
    learning_rate: Tensor, weight_decay: Tensor, rows: Tensor | None, steps: int, activation: str, frequency: float, start: int,
) -> Tensor:  # fmt: skip
    """See `mlp_population_train`."""
    alive = torch.ones(len(learning_rate), dtype=torch.bool, device=inputs.device)
    losses = []
    for step in range(steps):
        x, y = (chosen(data, rows, step) for data in (inputs, targets))
        loss, given = gradients(weights, biases, x, y, activation, frequency)
        losses.append(loss)
        alive = population_adam(
            [*weights, *biases], given, first, second, alive, learning_rate, weight_decay, start + step + 1
        )
    return torch.stack(losses, 1) if losses else inputs.new_empty(len(learning_rate), 0)


def chosen(data: Tensor, rows: Tensor | None, step: int) -> Tensor:
    """The samples of a step, `[M or 1, B, …]`."""
    if rows is None:
        return data
    models = torch.arange(len(rows), device=data.device) if len(data) > 1 else torch.zeros_like(rows[:, 0, 0])
    return data[models[:, None], rows[:, step]]
