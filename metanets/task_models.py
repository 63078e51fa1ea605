"""Models of one architecture as functions on the task that they were trained on, for tasks on weights that evaluate them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from modelzoo.task import Split, Task

SAMPLES = 128  # of the task a step


@dataclass(frozen=True)
class TaskModels:
    """All models at once.

    Args:
        task: what they are for.
        template: a module of their architecture, in evaluation mode.
    """

    task: Task
    template: nn.Module

    def outputs(self, tensors: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> Tensor:
        """Outputs `[M, S, ...]` of models `{name: [M, *shape]}`."""
        return vmap(lambda own: functional_call(self.template, own, tuple(inputs)))(dict(tensors))

    def losses(self, tensors: Mapping[str, Tensor], split: Split) -> Tensor:
        """The task's loss, `[M]`."""
        return vmap(self.task.loss, in_dims=(0, None))(self.outputs(tensors, split.inputs), split.targets)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The task's metric of outputs `[M, S, ...]`, `[M]`."""
        return vmap(self.task.score, in_dims=(0, None))(outputs, targets)


def sampled(split: Split, count: int = SAMPLES, generator: torch.Generator | None = None) -> Split:
    """Random samples, with repeats."""
    chosen = torch.randint(len(split.targets), (count,), generator=generator)
    return Split(tuple(x[chosen] for x in split.inputs), split.targets[chosen])
