"""A block of models: parameters stacked along a model axis, forward pass and loss vmapped over it.

The gradient is ordinary autograd through the stacked leaves, so batch-norm statistics may be updated in place and every
model's gradient is exactly its own.
"""

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from modelzoo.family import Family, FamilyConfig
from modelzoo.kernels.population_lstm import population_lstm
from modelzoo.kernels.registry import choose
from modelzoo.task import Split, Task, TaskData
from modelzoo.training.convolutions import convolution
from modelzoo.training.draws import Replacing, dropout_of_model

CPU = torch.device("cpu")
TEST_SAMPLES = 512  # evaluated at once


class Block:
    """A block of models during training.

    Args:
        family, config, task: what is trained on what.
        hyperparameters: one row a model.
        way: how convolutions are computed, see `convolutions.WAYS`.
    """

    def __init__(
        self, family: Family, config: FamilyConfig, task: Task, hyperparameters: pd.DataFrame, way: str = "grouped"
    ) -> None:
        self.task = task
        self.data: TaskData = task.data()
        self.vmapped = family.not_vmappable is None
        self.seeds, self.passes = torch.tensor(hyperparameters["seed"].to_numpy()), 0
        self.convolution = convolution(way)
        modules = [family.build(config, seed=int(seed)) for seed in hyperparameters["seed"]]
        self.template = modules[0]
        module: Any
        for module in self.template.modules():
            if hasattr(module, "in_one"):  # has an operation of its own, with a path that is faster than its loop
                module.in_one = self.vmapped and choose(population_lstm.__module__, CPU, torch.float32) != "reference"
        scales = torch.tensor(hyperparameters["init_scale"].to_numpy())
        names = [name for name, _ in self.template.named_parameters()]
        kept = self.template.state_dict().keys()
        self.parameters: dict[str, Tensor] = {}
        for name in names:
            stack = torch.stack([module.get_parameter(name).detach() for module in modules])
            if stack.ndim > 2:  # matrices and kernels; biases and norm gains keep their start
                stack = stack * scales.view(-1, *[1] * (stack.ndim - 1)).to(stack.dtype)
            self.parameters[name] = stack.requires_grad_()
        self.buffers = {
            name: torch.stack([module.get_buffer(name) for module in modules])
            for name, _ in self.template.named_buffers()
        }
        self.stored_buffers = [name for name in self.buffers if name in kept]
        instances = torch.tensor(hyperparameters["instance"].to_numpy())
        self.instances = instances if task.instances else None

    def outputs_and(
        self, compute: Callable[[Tensor, Tensor], Tensor], split: Split, rows: Tensor | None, train: bool
    ) -> Tensor:
        """`compute(outputs, targets)` for every model, `[model, …]`.

        Args:
            compute: loss, metric, or a function that keeps the outputs.
            split: the data.
            rows: `[model, batch]` samples of each model, `[batch]` for all models, or None for the whole split.
            train: training mode.
        """
        inputs, targets, mask = split.inputs, split.targets, split.mask
        over_targets: int | None = None
        if self.instances is not None:
            targets, over_targets = targets[self.instances], 0
        over_inputs: int | None = None
        if rows is not None:
            inputs, targets = tuple(x[rows] for x in inputs), targets[rows]
            over_inputs = over_targets = 0 if rows.ndim == 2 else None
        self.template.train(train)

        self.passes += train

        def one(
            parameters: dict[str, Tensor], buffers: dict[str, Tensor], seed: Tensor, x: tuple[Tensor, ...], y: Tensor
        ) -> Tensor:
            with Replacing({torch.conv2d: self.convolution, F.dropout: dropout_of_model(seed, self.passes)}):
                outputs = torch.func.functional_call(self.template, (parameters, buffers), x)
            return compute(outputs, y) if mask is None else compute(outputs[mask], y[mask])

        if self.vmapped:
            axes = (0, 0, 0, over_inputs, over_targets)
            mapped = torch.func.vmap(one, in_dims=axes, randomness="different")
            return mapped(self.parameters, self.buffers, self.seeds, inputs, targets)
        own = tuple(x[0] for x in inputs) if over_inputs == 0 else inputs
        state = [{name: stack[0] for name, stack in part.items()} for part in (self.parameters, self.buffers)]
        return one(state[0], state[1], self.seeds[0], own, targets[0] if over_targets == 0 else targets).unsqueeze(0)

    def loss(self, rows: Tensor | None) -> Tensor:
        """Training loss of every model, `[model]`."""
        return self.outputs_and(self.task.loss, self.data.train, rows, train=True)

    @torch.no_grad()
    def test(self) -> tuple[Tensor, Tensor]:
        """Test loss and test metric of every model, `[model]` each."""
        split = self.data.test

        def both(outputs: Tensor, targets: Tensor) -> Tensor:
            return torch.stack([self.task.loss(outputs, targets), self.task.score(outputs, targets)])

        if self.task.sampling == "full" or len(split.targets) <= TEST_SAMPLES:
            return tuple(self.outputs_and(both, split, None, train=False).T)
        parts = [
            self.outputs_and(lambda outputs, _: outputs, split, rows, train=False)
            for rows in torch.arange(len(split.targets)).split(TEST_SAMPLES)
        ]
        outputs = torch.cat(parts, dim=1)  # [model, sample, …]
        scores = torch.stack([both(own, split.targets) for own in outputs])
        return scores[:, 0], scores[:, 1]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Copies of the parameters and stored buffers."""
        parameters = {name: value.detach().clone() for name, value in self.parameters.items()}
        return parameters, {name: self.buffers[name].clone() for name in self.stored_buffers}
