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
    gap = h - y
    d = 2 * gap / (y.shape[1] * y.shape[2])
    d_weights, d_biases = [], []
    for layer in reversed(range(len(weights))):
        d_weights.append(d.mT @ entering[layer])
        d_biases.append(d.sum(1))
        if layer:
            d = (d @ weights[layer]) * slope(before[layer - 1], activation) * frequency
    return gap.square().mean((1, 2)), d_weights[::-1] + d_biases[::-1]


def train(
    weights: list[Tensor], biases: list[Tensor], first: list[Tensor], second: list[Tensor], inputs: Tensor, targets: Tensor,
    learning_rate: Tensor, steps: int, activation: str, frequency: float, start: int, batch: int,
) -> Tensor:  # fmt: skip
    """See `mlp_population_train`."""
    samples = torch.arange(batch, device=inputs.device)
    alive = torch.ones(len(targets), dtype=torch.bool, device=inputs.device)
    losses = []
    for step in range(start, start + steps):
        rows = (step * batch + samples) % targets.shape[1]
        x, y = (inputs, targets) if batch == targets.shape[1] else (inputs[:, rows], targets[:, rows])
        loss, given = gradients(weights, biases, x, y, activation, frequency)
        losses.append(loss)
        nothing = torch.zeros_like(learning_rate)
        alive = population_adam([*weights, *biases], given, first, second, alive, learning_rate, nothing, step + 1)
    return torch.stack(losses, 1) if losses else targets.new_empty(len(targets), 0)
