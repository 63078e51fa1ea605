"""Weights in between: straight lines and averages of models, and what they score on their task."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from modelzoo.errors import UserError
from modelzoo.store import Population
from modelzoo.task import Split, Task

Tensors = Mapping[str, Tensor]


def average(models: Sequence[Tensors], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """Σ_k w_k θ_k, tensor by tensor; integer buffers are those of the first model.

    Args:
        models: parameters and buffers by name.
        weights: one a model, None for the mean. They need not be positive (planes extrapolate), but must sum to one.

    Raises:
        UserError: the models have different tensors.
    """
    shares = [1 / len(models)] * len(models) if weights is None else list(weights)
    first = models[0]
    for other in models[1:]:
        if {name: tensor.shape for name, tensor in other.items()} != {name: tensor.shape for name, tensor in first.items()}:  # fmt: skip
            raise UserError("models with different tensors cannot be averaged; take them from one population.")
    return {
        name: sum(share * model[name] for share, model in zip(shares, models, strict=True))  # type: ignore[misc]
        if tensor.is_floating_point() or tensor.is_complex()
        else tensor.clone()
        for name, tensor in first.items()
    }


def interpolate(first: Tensors, second: Tensors, t: float) -> dict[str, Tensor]:
    """(1 − t) θ_1 + t θ_2."""
    return average((first, second), (1 - t, t))


class Evaluation:
    """Loss and metric of weights on one split of a task.

    Args:
        module: the architecture; it is left as it is.
        task: whose loss and metric.
        split: the data, "train" or "test".

    Raises:
        UserError: every model of the task represents another instance, so weights in between have no target.
    """

    def __init__(self, module: nn.Module, task: Task, split: str = "test") -> None:
        if task.instances:
            raise UserError(
                f"models of task {task.name!r} represent different instances, so no loss is common to them; "
                f"choose a population whose models share their data."
            )
        self.module, self.task = module, task
        self.data: Split = task.data().train if split == "train" else task.data().test

    @torch.no_grad()
    def __call__(self, tensors: Tensors) -> tuple[float, float]:
        """(loss, metric) of the module with these tensors."""
        outputs = functional_call(self.module, dict(tensors), self.data.inputs)
        targets = self.data.targets
        if self.data.mask is not None:
            outputs, targets = outputs[self.data.mask], targets[self.data.mask]
        return float(self.task.loss(outputs, targets)), float(self.task.score(outputs, targets))


def evaluation_of(population: Population, split: str = "test") -> Evaluation:
    """The evaluation of a population's models on their own task."""
    return Evaluation(population.template(), population.task, split)


def barrier(losses: np.ndarray, times: np.ndarray) -> float:
    """The largest height of a loss curve above the straight line between its ends."""
    return float((losses - (1 - times) * losses[0] - times * losses[-1]).max())
