"""Adam tensor by tensor. Reads θ, g (twice, for the norm), m, v; writes θ, m, v."""

import torch
from torch import Tensor


def update(
    parameters: list[Tensor], gradients: list[Tensor], first: list[Tensor], second: list[Tensor], alive: Tensor,
    learning_rate: Tensor, weight_decay: Tensor, step: int, gradient_clip: float | None, beta1: float, beta2: float, epsilon: float,
) -> Tensor:  # fmt: skip
    """See `population_adam`."""
    norm = gradient_norm(gradients)
    alive = alive & norm.isfinite()
    factor = torch.ones_like(norm) if gradient_clip is None else (gradient_clip / (norm + 1e-6)).clamp_max(1)

    def own(values: Tensor, like: Tensor) -> Tensor:
        return values.view(-1, *[1] * (like.ndim - 1))

    for theta, g, m, v in zip(parameters, gradients, first, second, strict=True):
        g = torch.where(own(alive, g), g * own(factor, g), 0)  # NaN times zero is NaN: replace, do not multiply
        m.mul_(beta1).add_((1 - beta1) * g)
        v.mul_(beta2).add_((1 - beta2) * g * g)
        direction = m / (1 - beta1**step) / ((v / (1 - beta2**step)).sqrt() + epsilon)
        moved = theta - own(learning_rate, theta) * (own(weight_decay, theta) * theta + direction)
        theta.copy_(torch.where(own(alive, theta), moved, theta))
    return alive


def gradient_norm(gradients: list[Tensor]) -> Tensor:
    """Of every model over all tensors, `[model]`."""
    norms = [torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1) for g in gradients]
    return torch.linalg.vector_norm(torch.stack(norms), dim=0)
