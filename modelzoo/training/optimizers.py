"""Adam and SGD on stacked parameters: one fused update for all models, hyper-parameters per model."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from modelzoo.kernels.population_adam import population_adam


class StackedOptimizer:
    """Optimizer state of a whole population.

    Adam is AdamW: m ← β₁m + (1-β₁)g, v ← β₂v + (1-β₂)g², θ ← θ - η(λθ + m̂/(√v̂ + ε)).
    SGD has momentum: m ← 0.9m + g, θ ← θ - η(λθ + m).

    Args:
        parameters: stacked tensors `[model, *shape]`, updated in place; complex ones are treated as real pairs.
        kind: which update.
        learning_rate: `[model]`.
        weight_decay: `[model]`, decoupled.
        gradient_clip: largest gradient norm per model, None for no clipping.
    """

    BETA1, BETA2, EPSILON, MOMENTUM = 0.9, 0.999, 1e-8, 0.9

    def __init__(
        self,
        parameters: Sequence[Tensor],
        kind: Literal["adam", "sgd"],
        learning_rate: Tensor,
        weight_decay: Tensor,
        gradient_clip: float | None = None,
    ) -> None:
        self.parameters = [_real(p.detach()) for p in parameters]
        self.kind = kind
        self.gradient_clip = gradient_clip
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters] if kind == "adam" else []
        self.steps = 0
        self.learning_rate, self.weight_decay = (x.to(self.parameters[0].dtype) for x in (learning_rate, weight_decay))
        self.rates = [_per_model(learning_rate, p) for p in self.parameters]
        self.keep = [1 - _per_model(learning_rate * weight_decay, p) for p in self.parameters]
        self.decays = bool((weight_decay != 0).any())

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], alive: Tensor) -> Tensor:
        """One update in place.

        Args:
            gradients: of every parameter tensor, `[model, *shape]`.
            alive: `[model]` bool, models that have not diverged.

        Returns:
            `alive` without the models whose gradient is not finite; those are left as they are from now on.
        """
        grads = [_real(g) for g in gradients]
        self.steps += 1
        if self.kind == "adam":
            return population_adam(
                self.parameters, grads, self.first, self.second, alive, self.learning_rate, self.weight_decay, self.steps,
                self.gradient_clip, self.BETA1, self.BETA2, self.EPSILON,
            )  # fmt: skip
        norms = torch.stack([g.reshape(len(g), -1).square().sum(1) for g in grads]).sum(0).sqrt()
        alive = alive & norms.isfinite()
        factor = torch.ones_like(norms)
        if self.gradient_clip is not None:
            factor = (self.gradient_clip / (norms + 1e-6)).clamp_max(1.0)  # as torch.nn.utils.clip_grad_norm_
        if not alive.all():  # NaN times zero is NaN: replace, do not multiply
            grads = [torch.where(_per_model(alive, g), g, 0) for g in grads]
            factor = torch.where(alive, factor, 0)
        if self.gradient_clip is not None:
            torch._foreach_mul_(grads, [_per_model(factor, g) for g in grads])
        rates = self.rates if alive.all() else [rate * _per_model(alive, rate) for rate in self.rates]
        if self.decays:
            keep = self.keep if alive.all() else [torch.where(_per_model(alive, k), k, 1) for k in self.keep]
            torch._foreach_mul_(self.parameters, keep)
        torch._foreach_mul_(self.first, self.MOMENTUM)
        torch._foreach_add_(self.first, grads)
        torch._foreach_sub_(self.parameters, torch._foreach_mul(self.first, rates))
        return alive


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _per_model(values: Tensor, like: Tensor) -> Tensor:
    """`[model]` values shaped to broadcast against `[model, *shape]`."""
    values = values if values.dtype == torch.bool else values.to(like.dtype)
    return values.view(-1, *[1] * (like.ndim - 1))
