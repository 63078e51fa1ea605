"""Editing implicit representations: an update of the weights after which the function shows an edited image.

Permutation Equivariant Neural Functionals (Zhou et al., 2023): a network on weights predicts an update; the loss is the mean
squared error between the edited network at the pixels and the edited image. No weights of edited networks are ever seen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt, sqrt

import torch
from torch import Tensor

from metanets.batching import ModelFunction, Models
from metanets.training.config import TrainingConfig
from metanets.training.data import PopulationBlock
from metanets.weight_task import Row, WeightTask, build, fit, register, split_rows
from metanets.weight_update import WeightUpdate
from modelzoo.errors import UserError
from modelzoo.family import Paper

Operator = Callable[[Tensor], Tensor]
"""Images `[M, H, W]` with values in [0, 1] to edited images of the same shape."""
PAPER = Paper("Permutation Equivariant Neural Functionals", "Zhou et al.", 2023)
CONTROL = "flat_mlp"  # knows no symmetry


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


def trained_editor(gallery: Gallery, operator: Operator, config: TrainingConfig) -> WeightUpdate:
    """A metanet that predicts updates, trained on the train split."""
    train = split_rows(gallery.block, "train")
    models = gallery.block.models(train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        editor = WeightUpdate(build(config, models), [models])
    wanted = operator(gallery.images)

    def loss(rows: Tensor) -> Tensor:
        chosen = gallery.block.models(rows)
        return (gallery.render(chosen, editor(chosen)) - wanted[rows]).square().mean()

    fit(editor, loss, train, config)
    return editor


@torch.no_grad()
def edited_images(gallery: Gallery, editor: WeightUpdate, rows: Tensor) -> Tensor:
    """`[rows, H, W]`."""
    models = gallery.block.models(rows)
    return gallery.render(models, editor(models))


def register_edit(name: str, operator: Operator, summary: str, file: str) -> WeightTask:
    """Register the task of editing images by an operator."""

    def measure(block: PopulationBlock, config: TrainingConfig) -> list[Row]:
        gallery, test = Gallery.of(block), split_rows(block, "test")
        wanted = operator(gallery.images)[test]
        plain = torch.zeros_like(wanted) + operator(gallery.images)[split_rows(block, "train")].mean(0)
        before = gallery.render(block.models(test))
        rows = [scored("nothing changed", before, wanted), scored("the mean edited image for all", plain, wanted)]
        control = config.model_copy(update={"metanet": CONTROL, "fields": {}})
        for each in [config] if config.metanet == CONTROL else [control, config]:
            editor = trained_editor(gallery, operator, each)
            parameters = sum(p.numel() for p in editor.parameters())
            rows.append(
                {**scored(each.metanet, edited_images(gallery, editor, test), wanted), "parameters": parameters}
            )
        return rows

    return register(WeightTask(name, measure, summary, "mse", False, PAPER), file)


def scored(method: str, images: Tensor, wanted: Tensor) -> Row:
    """Mean squared error over models, with its standard error."""
    errors = (images - wanted).square().mean((1, 2))
    return {"method": method, "mse": float(errors.mean()), "standard error": float(errors.std()) / sqrt(len(errors))}
