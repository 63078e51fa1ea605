"""How a population is trained fastest here: its way, its convolutions, and how many models in lock-step."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import nn

from modelzoo.family import Family, FamilyConfig, Recipe, parameter_count
from modelzoo.kernels.population_convolution import population_convolution
from modelzoo.kernels.registry import choose
from modelzoo.task import Task
from modelzoo.training.block import Block
from modelzoo.training.config import Plan
from modelzoo.training.convolutions import WAYS
from modelzoo.training.trainers import Fused, Trainer, Vmapped, fits
from modelzoo.training.tuning import fastest

FEWEST = 16  # models that are worth a measurement
LARGEST, BLOCK_SCALARS = 128, 2**20  # in lock-step: beyond them activations and weights leave the cache
ALONE = 16  # models of a block that are trained one after the other
FUSED = 256  # models of a block that need no lock-step; one commit each block


def prepare(
    family: Family, config: FamilyConfig, task: Task, hyperparameters: pd.DataFrame, recipe: Recipe
) -> tuple[Block, Trainer]:
    """A block of untrained models and the fastest way to train them."""
    if family.perceptron is not None and fits(family, config, task, hyperparameters, recipe):
        block = Block(family, config, task, hyperparameters)
        return block, Fused(block, hyperparameters, family.perceptron(config), recipe.batch_size)
    way = convolution_way(family, config, task, hyperparameters, recipe)
    block = Block(family, config, task, hyperparameters, way)
    return block, Vmapped(block, hyperparameters, recipe)


def convolution_way(
    family: Family, config: FamilyConfig, task: Task, hyperparameters: pd.DataFrame, recipe: Recipe
) -> str:
    """The fastest of `convolutions.WAYS`, measured on the first models; `grouped` where there is nothing to choose."""
    few = hyperparameters.iloc[:FEWEST]
    if family.not_vmappable or len(few) < FEWEST:
        return "grouped"
    if not any(isinstance(module, nn.Conv2d) for module in family.build(config, 0).modules()):
        return "grouped"
    own = choose(population_convolution.__module__, torch.device("cpu"), torch.float32) != "reference"
    ways = [way for way in WAYS if way != "own" or own]
    question = {"choice": "convolution", **_question(family, config, task, recipe)}
    return fastest(question, ways, lambda way: _trial(family, config, task, few, recipe, way))


def block_size(plan: Plan) -> int:
    """How many models to train together: small blocks stay in cache, large ones amortise what a call costs; measured."""
    if plan.source.block:
        return plan.source.block
    family, config, task, recipe = plan.family, plan.config, plan.task, plan.recipe
    if family.not_vmappable or family.fit:
        return ALONE
    few = plan.hyperparameters(range(min(FEWEST, plan.source.models)))
    if fits(family, config, task, few, recipe):
        return FUSED
    fitting = BLOCK_SCALARS // max(1, parameter_count(family.build(config, seed=0)))
    most = min(LARGEST, 2 ** max(2, fitting.bit_length() - 1))
    if len(few) < FEWEST:
        return most
    sizes = [size for size in (most // 8, most // 4, most // 2, most) if size]
    way = convolution_way(family, config, task, few, recipe)
    question = {"choice": "block", "convolution": way, **_question(family, config, task, recipe)}
    return fastest(
        question, sizes, lambda size: _trial(family, config, task, plan.hyperparameters(range(size)), recipe, way)
    )


def _trial(
    family: Family, config: FamilyConfig, task: Task, hyperparameters: pd.DataFrame, recipe: Recipe, way: str
) -> Callable[[], float]:
    """A call that takes one step with these models and says how many they are."""
    trainer = Vmapped(Block(family, config, task, hyperparameters, way), hyperparameters, recipe)
    trainer.train(1)  # warms up

    def step() -> float:
        trainer.train(1)
        return float(len(hyperparameters))

    return step


def _question(family: Family, config: FamilyConfig, task: Task, recipe: Recipe) -> dict[str, Any]:
    named = {"family": family.name, "config": config.model_dump(mode="json"), "task": task.name}
    return {**named, "batch_size": recipe.batch_size, "optimizer": recipe.optimizer}
