"""The dependency-preserving hypernetwork: a recurrent network walks over the target's layers, task after task."""

from collections.abc import Callable, Iterator
from math import sqrt
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from metanets.hyper.hypernetwork import (
    Generated,
    Hypernetwork,
    HypernetworkConfig,
    HypernetworkModule,
    Report,
    descend,
    register,
)
from metanets.hyper.target import Parameters, Problem, Target
from modelzoo.family import Paper, Recipe

Batch = tuple[tuple[Tensor, ...], Tensor]


class RecurrentHypernetworkConfig(HypernetworkConfig):
    """Sizes of a `RecurrentHypernetwork`.

    Args:
        tasks: how many tasks follow each other.
        task_embedding: size of e_t.
        chunk_embedding: size of the embedding of a chunk of the target's parameters.
        hidden: size of the recurrent state.
        chunk: parameters that come out at one step of the recurrence.
        stability: β, weight of the regulariser.
        importance: whether the regulariser weighs every target parameter by its Fisher information on its task.
        growth: recurrent units that are added before every task after the first.
        recurrent: False makes every chunk independently, by a multilayer perceptron of the same sizes: the baseline.
    """

    tasks: int = Field(default=3, gt=0)
    task_embedding: int = Field(default=8, gt=0)
    chunk_embedding: int = Field(default=8, gt=0)
    hidden: int = Field(default=32, gt=0)
    chunk: int = Field(default=128, gt=0)
    stability: float = Field(default=10.0, ge=0)
    importance: bool = True
    growth: int = Field(default=0, ge=0)
    recurrent: bool = True


class RecurrentHypernetwork(HypernetworkModule):
    """h_k = LSTM([e_t; c_k], h_{k-1}), chunk_k = W h_k + b: what a layer gets depends on what the layers before it got.

    Tasks follow each other, and the data of old ones are gone. The generator keeps its outputs for them:

    L = L_task + β/(t-1) Σ_{t'<t} 1/N Σ_i F_i (θ*_i(e_t') - θ_i(e_t'))²,

    where θ* were generated before the present task began and F is the Fisher information of task t' in its generated
    parameters, with mean one (all ones without `importance`). Embeddings of old tasks are frozen. Task 0 is the problem
    itself, task t the problem with the entries of its inputs permuted.

    `grow` adds recurrent units that no older unit and no output reads yet: generated parameters stay as they are.

    Shape:
        conditioning: numbers of tasks `[M]`; outputs `{name: [M, *shape]}`.
    """

    def __init__(self, target: Target, config: RecurrentHypernetworkConfig) -> None:
        super().__init__()
        self.target, self.config = target, config
        self.task_embeddings = nn.ParameterList(torch.randn(config.task_embedding) for _ in range(config.tasks))
        self.chunk_embeddings = nn.Parameter(torch.randn(-(-target.size // config.chunk), config.chunk_embedding))
        features, hidden = config.task_embedding + config.chunk_embedding, config.hidden
        self.cell: nn.Module = (
            nn.LSTM(features, hidden, batch_first=True)
            if config.recurrent
            else nn.Sequential(nn.Linear(features, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, hidden), nn.Tanh())
        )
        self.head = nn.Linear(hidden, config.chunk)
        # Every tensor is generated at its own scale; biases that begin at zero still have to be reachable.
        scales = [float(value.square().mean().sqrt()) or 0.1 for value in target.initial().values()]
        every = [
            torch.full((value.numel(),), scale) for scale, value in zip(scales, target.initial().values(), strict=True)
        ]
        self.register_buffer("scale", torch.cat(every), persistent=False)
        nn.init.normal_(self.head.weight, std=2 / sqrt(hidden))  # states of an LSTM begin at about one half

    scale: Tensor

    def forward(self, conditioning: Tensor) -> Parameters:
        tasks = torch.stack([self.task_embeddings[int(task)] for task in conditioning])
        chunks = len(self.chunk_embeddings)
        inputs = torch.cat(
            [tasks[:, None].expand(-1, chunks, -1), self.chunk_embeddings.expand(len(tasks), -1, -1)], -1
        )
        states = self.cell(inputs)[0] if self.config.recurrent else self.cell(inputs)
        return self.target.split(self.head(states).flatten(1)[:, : self.target.size] * self.scale)

    @torch.no_grad()
    def grow(self, units: int) -> None:
        """Add recurrent units; what is generated does not change until they are trained."""
        if not self.config.recurrent:
            raise ValueError("only the recurrent network grows")
        old, head = self.cell, self.head
        assert isinstance(old, nn.LSTM)
        had, size = old.hidden_size, old.hidden_size + units
        self.cell, self.head = nn.LSTM(old.input_size, size, batch_first=True), nn.Linear(size, self.config.chunk)
        for name, new in self.cell.named_parameters():
            value = old.get_parameter(name)
            rows = new.unflatten(0, (4, size))  # a view: gates are packed one after the other
            if name == "weight_hh_l0":
                rows[:, :had, had:] = 0  # old units do not read new ones
                rows[:, :had, :had] = value.unflatten(0, (4, had))
            else:
                rows[:, :had] = value.unflatten(0, (4, had))
        self.head.weight[:, had:] = 0
        self.head.weight[:, :had] = head.weight
        self.head.bias.copy_(head.bias)

    def learn(
        self, task: int, batch: Callable[[], Batch], problem: Problem, recipe: Recipe, report: Report | None = None
    ) -> None:
        """Learn the next task.

        Args:
            task: its number; all smaller ones are kept.
            batch: draws training data of the task.
            problem: of the losses.
            recipe: of the descent.
            report: called with step and loss.
        """
        for number, embedding in enumerate(self.task_embeddings):
            embedding.requires_grad_(number == task)
        old = torch.arange(task)
        kept = self.target.join(self(old)).detach() if task else None
        importance = torch.stack(self.importances) if task else None

        def loss() -> Tensor:
            every = self(torch.arange(task + 1))
            own = {name: value[task:] for name, value in every.items()}
            value = problem.losses(self.target, own, *batch()).sum()
            if kept is None or importance is None:
                return value
            change = (self.target.join(every)[:task] - kept) / self.scale
            return value + self.config.stability * (importance * change.square()).mean()

        descend(self, loss, recipe, report)
        self.importances.append(self._importance(task, batch, problem))

    @property
    def importances(self) -> list[Tensor]:
        """F of every learned task, `[size]` each."""
        return self.__dict__.setdefault("_importances", [])

    def _importance(self, task: int, batch: Callable[[], Batch], problem: Problem) -> Tensor:
        """Mean over batches of squared gradients in the generated parameters, divided by their mean."""
        if not self.config.importance:
            return torch.ones(self.target.size)
        total = torch.zeros(self.target.size)
        parameters = {name: value.detach() for name, value in self(torch.tensor([task])).items()}
        for _ in range(16):
            inputs, targets = batch()

            def losses(flat: Tensor, inputs: tuple[Tensor, ...] = inputs, targets: Tensor = targets) -> Tensor:
                return problem.losses(self.target, self.target.split(flat), inputs, targets).sum()

            flat = self.target.join(parameters).requires_grad_()
            total += (torch.autograd.grad(losses(flat), flat)[0][0] * self.scale).square()
        return total / total.mean().clamp_min(1e-30)

    def fit(self, problem: Problem, recipe: Recipe, seed: int, report: Report | None = None) -> None:
        """All tasks, one after the other; the recipe is that of one task."""
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # of the units that are added
            for task in range(self.config.tasks):
                if task and self.config.growth:
                    self.grow(self.config.growth)

                def batch(task: int = task) -> Batch:
                    inputs, targets = problem.batch(generator, recipe.batch_size)
                    return (permuted(inputs[0], task), *inputs[1:]), targets

                self.learn(task, batch, problem, recipe, report)

    @torch.no_grad()
    def scores(self, problem: Problem, tasks: int) -> Tensor:
        """Test score of the model of every task on that task, `[tasks]`."""
        split = problem.task.data().test
        each = []
        for task in range(tasks):
            parameters = {name: value[0] for name, value in self(torch.tensor([task])).items()}
            outputs = self.target(parameters, permuted(split.inputs[0], task), *split.inputs[1:])
            each.append(problem.task.score(outputs, split.targets))
        return torch.stack(each)

    @torch.no_grad()
    def samples(self, problem: Problem, count: int, generator: torch.Generator) -> Iterator[Generated]:
        """The models of the tasks, at most `count`; a zoo measures all of them on task 0."""
        tasks = torch.arange(min(count, self.config.tasks))
        columns: dict[str, Any] = {"continual_task": tasks.numpy()}
        yield Generated(problem.config, self(tasks), columns)


def permuted(inputs: Tensor, task: int) -> Tensor:
    """Inputs `[sample, *shape]` with the entries of every sample in the order of the task; task 0 leaves them."""
    if task == 0:
        return inputs
    order = torch.randperm(inputs[0].numel(), generator=torch.Generator().manual_seed(task))
    return inputs.flatten(1)[:, order].view_as(inputs)


HYPERNETWORK = register(
    Hypernetwork(
        name="recurrent_hypernetwork",
        module=RecurrentHypernetwork,
        config=RecurrentHypernetworkConfig,
        paper=Paper("Continual Learning with Dependency Preserving Hypernetworks", "Chandra et al.", 2023, "S076"),
        conditioning="the number of a task in a sequence of tasks",
        summary="An LSTM over the target's parameters, kept for old tasks by a regulariser, growing with new ones.",
        recipe=Recipe(steps=200, batch_size=64, learning_rate=3e-2),
        tiny={"tasks": 2, "hidden": 8, "growth": 2},
    )
)
