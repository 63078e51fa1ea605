"""The ways to take optimizer steps with a block of models; all of them make the same zoo, float rounding aside."""

import itertools
from math import prod
from typing import Protocol

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from modelzoo.family import Family, FamilyConfig, Perceptron, Recipe
from modelzoo.kernels.mlp_population_train import mlp_population_train
from modelzoo.kernels.registry import choose
from modelzoo.metrics import mean_squared_error
from modelzoo.task import Task
from modelzoo.training.block import Block
from modelzoo.training.optimizers import StackedOptimizer
from modelzoo.training.sampling import sample_rows

AT_ONCE = 100  # steps in one call, whose samples are listed
WIDEST = 64  # wider layers leave the innermost cache, and there batched products are as fast


class Trainer(Protocol):
    """Takes steps with a block, in place.

    Args:
        alive: `[model]` bool, models that have not diverged; the others are left as they are.
    """

    alive: Tensor

    def train(self, steps: int) -> Tensor:
        """Take steps; returns the loss of every model before the first of them, `[model]`."""

    def next_rows(self) -> Tensor | None:
        """The samples that the next step would see."""


class Vmapped:
    """Lock-step: one vmapped forward pass, autograd and one stacked update a step. Fits everything.

    Args:
        block: of models.
        hyperparameters: one row a model.
        recipe: batch size, optimizer, clipping.
    """

    def __init__(self, block: Block, hyperparameters: pd.DataFrame, recipe: Recipe) -> None:
        self.block = block
        self.leaves = list(block.parameters.values())
        rates, decays = (torch.tensor(hyperparameters[name].to_numpy()) for name in ("learning_rate", "weight_decay"))
        self.optimizer = StackedOptimizer(self.leaves, recipe.optimizer, rates, decays, recipe.gradient_clip)
        self.rows = sample_rows(block.task, block.data, hyperparameters, recipe.batch_size)
        self.alive = torch.ones(len(hyperparameters), dtype=torch.bool)

    def train(self, steps: int) -> Tensor:
        first = None
        for _ in range(steps):
            losses = self.block.loss(self.next_rows())
            first = losses.detach() if first is None else first
            gradients = torch.autograd.grad(losses.sum(), self.leaves, materialize_grads=True)
            self.alive = self.optimizer.step(gradients, self.alive & losses.detach().isfinite())
        assert first is not None
        return first

    def next_rows(self) -> Tensor | None:
        return next(self.rows)


class Fused:
    """Perceptrons with Adam: the operation `mlp_population_train`; see `fits`."""

    def __init__(self, block: Block, hyperparameters: pd.DataFrame, perceptron: Perceptron, batch_size: int) -> None:
        self.perceptron = perceptron
        parameters = {name: stack.detach() for name, stack in block.parameters.items()}
        self.weights, self.biases = (
            [parameters[f"{layer}.{kind}"] for layer in perceptron.layers] for kind in ("weight", "bias")
        )
        self.first, self.second = ([torch.zeros_like(x) for x in (*self.weights, *self.biases)] for _ in range(2))
        train = block.data.train
        self.inputs = train.inputs[0].flatten(1)
        self.targets = train.targets if block.instances is None else train.targets[block.instances]
        self.rates, self.decays = (
            torch.tensor(hyperparameters[name].to_numpy()).to(self.inputs.dtype) for name in ("learning_rate", "weight_decay")
        )  # fmt: skip
        self.rows = sample_rows(block.task, block.data, hyperparameters, batch_size)
        self.taken = 0
        self.alive = torch.ones(len(hyperparameters), dtype=torch.bool)

    def train(self, steps: int) -> Tensor:
        first = None
        for taken in range(0, steps, AT_ONCE):
            count = min(AT_ONCE, steps - taken)
            rows = [own for own in itertools.islice(self.rows, count) if own is not None]
            losses = mlp_population_train(
                self.weights, self.biases, self.first, self.second, self.inputs, self.targets, self.rates, count,
                self.perceptron.activation, self.perceptron.frequency, self.taken, torch.stack(rows, 1) if rows else None,
                self.decays,
            )  # fmt: skip
            self.taken += count
            self.alive = self.alive & losses.isfinite().all(1)
            first = losses[:, 0] if first is None else first
        assert first is not None
        return first

    def next_rows(self) -> Tensor | None:
        return next(self.rows)


def fits(family: Family, config: FamilyConfig, task: Task, hyperparameters: pd.DataFrame, recipe: Recipe) -> bool:
    """Whether `Fused` trains these models, and is faster here: it has a path of its own beside the reference."""
    plain_adam = recipe.optimizer == "adam" and recipe.gradient_clip is None
    if family.perceptron is None or not plain_adam or task.loss not in (mean_squared_error, F.cross_entropy):
        return False
    train, module = task.data().train, family.build(config, seed=0)
    first = module.get_parameter(f"{family.perceptron(config).layers[0]}.weight")
    return (
        train.mask is None
        and [prod(x.shape[1:]) for x in train.inputs] == [first.shape[1]]
        and train.targets.ndim == 1 + bool(task.instances) + (task.loss is mean_squared_error)
        and all(max(p.shape) <= WIDEST for p in module.parameters())
        and choose(mlp_population_train.__module__, torch.device("cpu"), torch.float32) != "reference"
    )
