"""Taylor models of a network in its parameters, and gradient descent on many of them in lock-step.

    f_1(w) = f(w₀) + ∇f(w₀)·d,    f_2(w) = f_1(w) + ½ dᵀ ∇²f(w₀) d,    d = w − w₀

Derivatives are along d alone, so neither ∇f nor ∇²f is stored.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vjp, vmap

from analysis.ntk.smooth import smooth

Parameters = dict[str, Tensor]
Function = Callable[[Parameters], Tensor]
DIVERGED = 1e8  # times the first loss


def parameters_of(module: nn.Module) -> Parameters:
    """The parameters that require gradients, detached, by name."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


def function_of(module: nn.Module, *inputs: Tensor) -> Function:
    """The outputs of a module on fixed inputs as a function of its parameters."""
    return lambda parameters: functional_call(module, parameters, inputs)


def taylor(function: Function, center: Parameters, order: int) -> Function:
    """The Taylor polynomial of a function of parameters.

    Args:
        function: twice differentiable (almost everywhere).
        center: w₀.
        order: 0 (the function itself), 1 or 2.

    Raises:
        ValueError: another order.
    """
    if order == 0:
        return function
    if order not in (1, 2):
        raise ValueError(f"order {order} is not there; 1 is the linearization, 2 the quadratic model")

    def model(parameters: Parameters) -> Tensor:
        example = next(iter(center.values()))
        start = example.real.new_zeros(()) if example.is_complex() else example.new_zeros(())

        def line(t: Tensor) -> Tensor:
            with smooth():
                return function({name: value + t * (parameters[name] - value) for name, value in center.items()})

        slope = derivative(line)
        expanded = line(start) + slope(start)
        return expanded if order == 1 else expanded + derivative(slope)(start) / 2

    return model


def derivative(line: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The derivative of a function of one number: u ↦ u · line'(t) by reverse differentiation, and of that its gradient."""

    def slope(t: Tensor) -> Tensor:
        value, pullback = vjp(line, t)  # type: ignore[misc]
        _, push = vjp(lambda u: pullback(u)[0], torch.zeros_like(value))  # type: ignore[misc]
        return push(torch.ones_like(t))[0]

    return slope


@dataclass(frozen=True)
class Descent:
    """Full-batch gradient descent on the squared loss Σ (f − y)² / 2N of several networks in lock-step.

    Args:
        losses: `[step, network]`; infinite once diverged.
        before: largest eigenvalue of the tangent kernel over N at the start, `[network]`.
        after: the same at the end (NaN where diverged).
        parameters: at the end, `[network, *]` each.
    """

    losses: Tensor
    before: Tensor
    after: Tensor
    parameters: Parameters


Model = Callable[[Parameters, Parameters], Tensor]
"""`(w, w₀) -> outputs` of one network."""


def largest_eigenvalue(model: Model, parameters: Parameters, center: Parameters) -> Tensor:
    """λ_max of J Jᵀ / N for every network, `[network]`."""

    def one(own: Parameters, start: Parameters) -> Tensor:
        parts = jacrev(lambda w: model(w, start).flatten())(own)
        rows = torch.cat([part.flatten(1) for part in parts.values()], 1)
        return rows @ rows.T / len(rows)

    return torch.linalg.eigvalsh(vmap(one)(parameters, center).nan_to_num(0, 0, 0))[:, -1]


def descend(model: Model, center: Parameters, targets: Tensor, rates: Tensor, steps: int) -> Descent:
    """Train networks that start at `center`, each with its own learning rate.

    Args:
        model: see `Model`.
        center: w₀ `[network, *]` each.
        targets: `[network, N]`.
        rates: learning rates times the largest eigenvalue at the start, `[network]`.
        steps: of gradient descent.
    """

    def loss(own: Parameters, start: Parameters, wanted: Tensor) -> Tensor:
        return (model(own, start).flatten() - wanted).square().mean() / 2

    before = largest_eigenvalue(model, center, center)
    rates = rates / before
    gradient: Any = vmap(torch.func.grad_and_value(loss))
    parameters, losses = dict(center), []
    dead = torch.zeros(len(rates), dtype=torch.bool)
    for _ in range(steps):
        slopes, values = gradient(parameters, center, targets)
        losses.append(torch.where(dead, torch.inf, values))
        dead = dead | ~values.isfinite() | (values > DIVERGED * losses[0])
        moving = torch.where(dead, 0, rates)
        for name, slope in slopes.items():
            step = moving.view(-1, *[1] * (slope.ndim - 1)) * slope.nan_to_num(0, 0, 0)
            parameters[name] = parameters[name] - step
    after = torch.where(dead, torch.nan, largest_eigenvalue(model, parameters, center))
    return Descent(torch.stack(losses), before, after, parameters)
