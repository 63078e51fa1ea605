"""Editing implicit representations: an update of the weights after which the function shows an edited image.

Permutation Equivariant Neural Functionals (Zhou et al., 2023): a network on weights predicts an update; the loss is the mean
squared error between the edited network at the pixels and the edited image. No weights of edited networks are ever seen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import isqrt

import torch
from pydantic import Field
from torch import Tensor, nn

from metanets.batching import Models
from metanets.expansion import Expansion, changed
from metanets.rendered_update import RenderedUpdate
from metanets.training.config import TrainingConfig
from metanets.training.data import PopulationBlock
from metanets.weight_task import (
    Experiment,
    Metrics,
    TaskConfig,
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
WIDENED = 4096  # training models that statistics are read off after expansion
FEW = 16  # training models that an untrained update is measured on
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

    def render(self, models: Models) -> Tensor:
        """The images that models show, `[M, H, W]`."""
        assert models.function is not None
        return models.function(self.grid).view(-1, *self.images.shape[1:])


class EditingConfig(TaskConfig):
    """Fields of the tasks that edit.

    Args:
        expansion: neurons that every hidden layer gains before the edit.
        rendered: whether updates of the new neurons are also read off the image that a model shows.
    """

    expansion: int = Field(0, ge=0)
    rendered: bool = True


class Editor(nn.Module):
    """Models to edited models: x ↦ w(x) + Δ(w(x)) + r(x), w an `Expansion`, Δ a `WeightUpdate`, r a `RenderedUpdate`.

    Without expansion it is x ↦ x + Δ(x).
    """

    def __init__(self, update: WeightUpdate, expansion: Expansion | None, rendered: RenderedUpdate | None) -> None:
        super().__init__()
        self.update, self.expansion, self.rendered = update, expansion, rendered

    def forward(self, models: Models) -> Models:
        wide = models if self.expansion is None else self.expansion(models)
        change = self.update(wide)
        if self.expansion is not None and self.rendered is not None:
            change = change + self.expansion.spread(self.rendered(models))
        return changed(wide, change)


def build_editor(gallery: Gallery, config: TrainingConfig, expansion: int = 0, rendered: bool = True) -> Editor:
    """An untrained editor of a population."""
    block, rows = gallery.block, split_rows(gallery.block, "train")
    wider = Expansion(block, expansion, config.seed) if expansion else None
    training, few = block.models(rows), block.models(rows[:FEW])
    if wider is not None:
        with torch.no_grad():
            training, few = wider(block.models(rows[:WIDENED])), wider(few)
    update = WeightUpdate(build(config, training), [training])
    update.calibrate(few)
    seen = RenderedUpdate(gallery.grid.shape[1], wider.keys) if wider is not None and rendered else None
    return Editor(update, wider, seen)


def editing(block: PopulationBlock, config: TrainingConfig, operator: Operator, expansion: int, rendered: bool) -> Experiment:  # fmt: skip
    """The experiment of editing the images of a population by an operator; its network is an `Editor`."""
    gallery, test = Gallery.of(block), split_rows(block, "test")
    editor = build_editor(gallery, config, expansion, rendered)
    wanted = operator(gallery.images)

    def edited(rows: Tensor) -> Tensor:
        return gallery.render(editor(block.models(rows)))

    def errors(rows: Tensor, images: Tensor) -> Tensor:
        return (images - wanted[rows]).square().mean((1, 2))

    def loss(rows: Tensor) -> Tensor:
        return errors(rows, edited(rows)).mean()

    @torch.no_grad()
    def measure() -> Metrics:
        return mean_and_error("mse", torch.cat([errors(rows, edited(rows)) for rows in test.split(config.batch_size)]))

    @torch.no_grad()
    def baselines() -> dict[str, Metrics]:
        plain = wanted[split_rows(block, "train")].mean(0)
        shown = {"nothing changed": gallery.render(block.models(test)), "the mean edited image for all": plain}
        return {name: mean_and_error("mse", errors(test, images)) for name, images in shown.items()}

    return Experiment(editor, loss, items_of(block), measure, baselines)


def register_edit(name: str, operator: Operator, summary: str, file: str) -> WeightTask:
    """Register the task of editing images by an operator."""
    prepare = partial(editing, operator=operator)
    return register(
        WeightTask(name, prepare, summary, "mse", False, PAPER, config=EditingConfig(expansion=0, rendered=True)),
        file,
    )
