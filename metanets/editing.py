"""Editing implicit representations: an update of the weights after which the function shows an edited image.

Permutation Equivariant Neural Functionals (Zhou et al., 2023): a network on weights predicts an update; the loss is the mean
squared error between the edited network at the pixels and the edited image. No weights of edited networks are ever seen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import isqrt

import torch
from torch import Tensor

from metanets.batching import ModelFunction, Models
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

Operator = Callable[[Tensor], Tensor]
"""Images `[M, H, W]` with values in [0, 1] to edited images of the same shape."""
PAPER = Paper("Permutation Equivariant Neural Functionals", "Zhou et al.", 2023)


@dataclass(frozen=True)
class Gallery:
    """Implicit representations and the images they were trained on.

    Args:
        block: the models.
        grid: `[H · W, 2]` the pixels' coordinates.
        images: `[M, H, W]`.
    """

    block: PopulationBlock
    grid: Tensor
    images: Tensor

    @classmethod
    def of(cls, block: PopulationBlock) -> "Gallery":
        """The gallery of a population; raises `UserError` where its models stand for no square grey images."""
        data, spec = block.population.task.data(), block.population.task.inputs
        side = isqrt(data.train.targets[0].numel())
        if spec.kind != "coordinates" or "instance" not in block.table or side**2 != data.train.targets[0].numel():
            raise UserError(f"population {block.population.name!r} holds no implicit representations of square grey images, so there is nothing to edit.")  # fmt: skip
        instances = torch.from_numpy(block.table["instance"].to_numpy().copy())
        return cls(block, data.train.inputs[0], data.train.targets[instances].view(-1, side, side))

    def render(self, models: Models, change: Tensor | float = 0.0) -> Tensor:
        """Images `[M, H, W]` of models after a change of their weights `[E, M]`."""
        assert models.function is not None
        tensors = {**models.function.tensors, **self.block.structure.scatter((models.values + change).T)}
        function = ModelFunction(models.function.template, tensors, models.function.shape)
        return function(self.grid).view(-1, *self.images.shape[1:])


def editing(block: PopulationBlock, config: TrainingConfig, operator: Operator) -> Experiment:
    """The experiment of editing the images of a population by an operator; its network is a `WeightUpdate`."""
    gallery, test = Gallery.of(block), split_rows(block, "test")
    training = block.models(split_rows(block, "train"))
    editor = WeightUpdate(build(config, training), [training])
    wanted = operator(gallery.images)

    def errors(rows: Tensor, images: Tensor) -> Tensor:
        return (images - wanted[rows]).square().mean((1, 2))

    def loss(rows: Tensor) -> Tensor:
        return errors(rows, edited_images(gallery, editor, rows)).mean()

    @torch.no_grad()
    def measure() -> Metrics:
        return mean_and_error("mse", errors(test, edited_images(gallery, editor, test)))

    @torch.no_grad()
    def baselines() -> dict[str, Metrics]:
        plain = wanted[split_rows(block, "train")].mean(0)
        shown = {"nothing changed": gallery.render(block.models(test)), "the mean edited image for all": plain}
        return {name: mean_and_error("mse", errors(test, images)) for name, images in shown.items()}

    return Experiment(editor, loss, items_of(block), measure, baselines)


def edited_images(gallery: Gallery, editor: WeightUpdate, rows: Tensor) -> Tensor:
    """`[rows, H, W]`."""
    models = gallery.block.models(rows)
    return gallery.render(models, editor(models))


def register_edit(name: str, operator: Operator, summary: str, file: str) -> WeightTask:
    """Register the task of editing images by an operator."""
    prepare = partial(editing, operator=operator)
    return register(WeightTask(name, prepare, summary, "mse", False, PAPER), file)
