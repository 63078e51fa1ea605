"""On the CPU: torch's fused Adam computes the direction of all tensors, with a rate of one; each model then takes its own step."""

import torch
from torch import Tensor

from modelzoo.kernels.population_adam.reference import gradient_norm


def refused(part: str, parameters: list[Tensor], *rest: object) -> str:
    """Half precision is left to the reference: the fused kernel rounds its direction to it."""
    return "" if parameters[0].dtype in (torch.float32, torch.float64) else "it is for float32 and float64"


def update(
    parameters: list[Tensor], gradients: list[Tensor], first: list[Tensor], second: list[Tensor], alive: Tensor,
    learning_rate: Tensor, weight_decay: Tensor, step: int, gradient_clip: float | None, beta1: float, beta2: float, epsilon: float,
) -> Tensor:  # fmt: skip
    """See `population_adam`."""
    norm = gradient_norm(gradients)
    alive = alive & norm.isfinite()
    shapes = [(-1, *[1] * (tensor.ndim - 1)) for tensor in parameters]
    if gradient_clip is not None:
        factor = (gradient_clip / (norm + 1e-6)).clamp_max(1)
        gradients = [g * factor.view(shape) for g, shape in zip(gradients, shapes, strict=True)]
    rate, decay = learning_rate, weight_decay
    if not bool(alive.all()):
        gradients = [torch.where(alive.view(shape), g, 0) for g, shape in zip(gradients, shapes, strict=True)]
        rate = torch.where(alive, rate, 0)
    directions = [torch.zeros_like(theta) for theta in parameters]  # becomes minus the direction
    gradients = [g.contiguous() for g in gradients]
    steps = [torch.tensor(float(step))] * len(parameters)
    torch._fused_adam_(
        directions, gradients, first, second, [], steps, lr=1.0, beta1=beta1, beta2=beta2, weight_decay=0.0, eps=epsilon,
        amsgrad=False, maximize=False,
    )  # fmt: skip
    if bool((decay != 0).any()):
        torch._foreach_mul_(parameters, [(1 - rate * decay).view(shape) for shape in shapes])
    for theta, direction, shape in zip(parameters, directions, shapes, strict=True):
        theta.addcmul_(direction, rate.view(shape))
    return alive
