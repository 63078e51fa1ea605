"""Domain adaptation by editing: an update of a classifier's weights after which it is right on another domain.

A metanet sees the weights alone and predicts the update, as for Permutation Equivariant Neural Functionals (Zhou et al., 2023); the
loss is that of the edited model on the training data of the domain. No model that was trained on the domain is ever seen.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from metanets.task_models import TaskModels, sampled
from metanets.training.config import TrainingConfig
from metanets.training.data import PopulationBlock
from metanets.weight_task import (
    Experiment,
    Metrics,
    WeightTask,
    build,
    items_of,
    mean_and_error,
    register,
    split_rows,
)
from metanets.weight_update import WeightUpdate
from modelzoo.errors import UserError
from modelzoo.family import Paper
from modelzoo.task import Split

Domain = Callable[[Tensor], Tensor]
"""Images `[S, channels, H, W]` in [0, 1] to images of the other domain."""
Tensors = Mapping[str, Tensor]
STEPS = (1, 5, 25)  # of fine-tuning
RATES = (0.003, 0.01, 0.03, 0.1)  # of fine-tuning, the best one on the validation split counts
SHARED = (200, 3e-3)  # steps and step size of Adam on one change for all
FACTOR = 0.1  # of an untrained update, relative to the weights: a domain is further off than a stroke


class Classifiers:
    """A population as functions on another domain.

    Args:
        block: the models; raises `UserError` where they do not classify images.
        domain: the other domain.
    """

    def __init__(self, block: PopulationBlock, domain: Domain) -> None:
        task, function = block.population.task, block.function
        if task.inputs.kind != "image" or task.targets.kind != "classes" or function is None:
            raise UserError(f"population {block.population.name!r} does not classify images, so there is no domain to adapt to.")  # fmt: skip
        self.block, self.on_task = block, TaskModels(task, function.template)
        self.train, self.test = (
            Split((domain(s.inputs[0]),), s.targets) for s in (task.data().train, task.data().test)
        )

    def tensors(self, rows: Tensor, change: Tensor | float = 0.0) -> dict[str, Tensor]:
        """Parameters and buffers of models after a change `[E, M]`."""
        own = {name: tensor[rows] for name, tensor in self.block.tensors.items()}
        return {**own, **self.block.structure.scatter((self.block.values[:, rows] + change).T)}

    def scores(self, tensors: Tensors) -> Tensor:
        """The task's metric on the test images of the domain, `[M]`."""
        return self.on_task.scores(self.on_task.outputs(tensors, self.test.inputs), self.test.targets)

    def tuned(self, rows: Tensor, steps: int, rate: float) -> dict[str, Tensor]:
        """Models after steps of Adam on all of the domain's training images."""
        tensors = self.tensors(rows)
        own = {name: tensors[name].clone().requires_grad_() for name, _ in self.on_task.template.named_parameters()}
        optimizer = torch.optim.Adam(own.values(), rate)  # element by element: every model by itself
        for _ in range(steps):
            optimizer.zero_grad()
            self.on_task.losses({**tensors, **own}, self.train).sum().backward()
            optimizer.step()
        return {**tensors, **{name: tensor.detach() for name, tensor in own.items()}}


def adapting(block: PopulationBlock, config: TrainingConfig, domain: Domain) -> Experiment:
    """The experiment of adapting a population to a domain; its network is a `WeightUpdate`."""
    models = Classifiers(block, domain)
    train, validation, test = (split_rows(block, split) for split in ("train", "validation", "test"))
    training = block.models(train)
    editor = WeightUpdate(build(config, training), [training], FACTOR)
    name = models.on_task.task.metric

    def loss(rows: Tensor) -> Tensor:
        return models.on_task.losses(models.tensors(rows, editor(block.models(rows))), sampled(models.train)).mean()

    @torch.no_grad()
    def measure() -> Metrics:
        return mean_and_error(name, models.scores(models.tensors(test, editor(block.models(test)))))

    def baselines() -> dict[str, Metrics]:
        found = {
            "unedited": mean_and_error(name, models.scores(models.tensors(test))),
            "one change for all": mean_and_error(name, models.scores(models.tensors(test, _shared(models, train)))),
        }
        for steps in STEPS:
            rate = min(RATES, key=lambda r: _finite_mean(models.on_task.losses(models.tuned(validation, steps, r), models.train)))  # fmt: skip
            tuned = models.scores(models.tuned(test, steps, rate))
            found[f"fine-tuned for {steps} steps, rate {rate:g}"] = mean_and_error(name, tuned)
        return found

    return Experiment(editor, loss, items_of(block), measure, baselines)


def _finite_mean(losses: Tensor) -> float:
    return float(losses.nan_to_num(torch.inf).mean())


def _shared(models: Classifiers, train: Tensor) -> Tensor:
    """The same change of every model's weights `[E, 1]`, trained as the editor is: knows no neuron's place in a model."""
    steps, rate = SHARED
    change = torch.zeros(len(models.block.values), 1, requires_grad=True)
    optimizer = torch.optim.Adam([change], rate)
    for _ in range(steps):
        rows = train[torch.randperm(len(train))[:32]]
        optimizer.zero_grad()
        models.on_task.losses(models.tensors(rows, change), sampled(models.train)).mean().backward()
        optimizer.step()
    return change.detach()


def register_domain(name: str, domain: Domain, summary: str, file: str) -> WeightTask:
    """Register the task of adapting classifiers of images to a domain."""
    paper = Paper("Permutation Equivariant Neural Functionals", "Zhou et al.", 2023)
    task = WeightTask(name, partial(adapting, domain=domain), summary, "accuracy", True, paper, "unf", {"epochs": 20, "batch_size": 16})  # fmt: skip
    return register(task, file)
