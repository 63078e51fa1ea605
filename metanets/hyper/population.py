"""Generated models as citizens of a zoo: train a hypernetwork, write what it makes as populations."""

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metanets.hyper.hypernetwork import Generated, Hypernetwork, HypernetworkConfig, Report
from metanets.hyper.target import Problem, Target
from modelzoo.errors import UserError
from modelzoo.family import Paper, Recipe, resolve
from modelzoo.store import ModelBatch, Population, PopulationInfo, Zoo, manifest
from modelzoo.store.records import check_name
from modelzoo.task import task as task_of
from modelzoo.training import Plan, PopulationConfig


def problem_of(
    hypernetwork: Hypernetwork, family: str | None, task: str | None, fields: Mapping[str, Any], tiny: bool = False
) -> Problem:
    """The family, config and task that a hypernetwork is to generate for.

    Args:
        hypernetwork: its own family is the default.
        family: `family` or `family.variant`, None for the hypernetwork's own or `mlp`.
        task: None for the family's default.
        fields: config fields of the family.
        tiny: start from the family's smallest config.

    Raises:
        UserError: the family does not fit the task.
    """
    found, variant = resolve(family or hypernetwork.family or "mlp")
    chosen = task_of(task or found.task)
    return Problem(found, found.configure(chosen, {**(found.tiny if tiny else {}), **variant, **fields}), chosen)


def generate(
    zoo_path: str | Path,
    hypernetwork: Hypernetwork,
    config: HypernetworkConfig,
    problem: Problem,
    models: int,
    name: str | None = None,
    seed: int = 0,
    recipe: Recipe | None = None,
    report: Report | None = None,
) -> list[Population]:
    """Train a hypernetwork and write the models it makes, one population an architecture.

    The parent of every population and model is the hypernetwork; its config, recipe and seed, which are all that is needed
    to train it again, are in the population's record. Nothing is written before all models are made.

    Args:
        zoo_path: the zoo, made if it is not there.
        hypernetwork: what to train.
        config: its config.
        problem: what its models are for.
        models: about how many.
        name: of the population, default HYPERNETWORK-FAMILY-TASK; further architectures get a number behind it.
        seed: of initialisation, training and samples.
        recipe: None for the hypernetwork's own.
        report: called with step and loss.

    Raises:
        UserError: a name is taken or not usable, or there is nothing to generate.
    """
    if models < 1:
        raise UserError(f"a population needs at least one model, got {models}; set --models.", 2)
    base = check_name(name or f"{hypernetwork.name}-{problem.family.name}-{problem.task.name}".replace("_", "-"))
    check_free(zoo_path, base)
    chosen, started = recipe or hypernetwork.recipe, time.perf_counter()
    target = problem.target(seed)
    module = hypernetwork.build(target, config, seed)
    module.fit(problem, chosen, seed, report)
    made = list(module.samples(problem, models, torch.Generator().manual_seed(seed)))
    seconds = time.perf_counter() - started
    total = sum(map(_count, made))
    training = {
        "hypernetwork": hypernetwork.name, "config": config.model_dump(mode="json"),
        "recipe": chosen.model_dump(mode="json"), "seed": seed,
    }  # fmt: skip
    written = []
    for number, each in enumerate(made):
        own = base if len(made) == 1 else f"{base}-{number}"
        parent = f"hypernetwork {hypernetwork.name}"
        written.append(records(own, each, problem, parent, hypernetwork.paper, training, seed, seconds / total))
    zoo = Zoo.open_or_create(zoo_path)
    populations = []
    for info, batch in written:
        population = zoo.create_population(info)
        population.append(batch, f"generate {len(batch)} models of {info.name}")
        populations.append(population)
    return populations


def check_free(zoo_path: str | Path, base: str) -> None:
    """Raise before hours of training, not after."""
    try:
        names = Zoo.open(zoo_path).names()
    except UserError as error:
        if "there is no zoo" in str(error) or "not a zoo" in str(error):
            return  # it will be made, or the reason why it cannot will be told
        raise
    taken = [other for other in names if re.fullmatch(rf"{re.escape(base)}(-\d+)?", other)]
    if taken:
        raise UserError(f"the zoo {str(zoo_path)!r} already has a population {taken[0]!r}; choose another --name or remove it first (metazoo rm).")  # fmt: skip


def _count(generated: Generated) -> int:
    return len(next(iter(generated.parameters.values())))


def records(
    name: str, generated: Generated, problem: Problem, parent: str, paper: Paper | None, training: dict[str, Any],
    seed: int, seconds: float,
) -> tuple[PopulationInfo, ModelBatch]:  # fmt: skip
    """The record and the models of one architecture, tested on the problem.

    Args:
        name: of the population.
        generated: the models.
        problem: what they are for.
        parent: what made them, in words.
        paper: its paper.
        training: all that is needed to make them again.
        seed: of the splits.
        seconds: wall time a model.
    """
    family, task, count = problem.family, problem.task, _count(generated)
    target = Target.of(family, generated.config, seed)
    parameters, buffers = manifest(target.module)
    state = dict(target.module.named_buffers())
    loss, score = (values.numpy() for values in problem.test(target, generated.parameters))
    finite = np.isfinite(loss)
    for value in generated.parameters.values():
        finite &= value.isfinite().flatten(1).all(1).numpy()
    # Splits are drawn as those of trained populations are, so that a metanet can learn from both.
    plan = Plan.of(PopulationConfig.read(family=family.name, task=task.name, models=count, seed=seed))
    drawn = plan.hyperparameters(range(count))
    info = PopulationInfo(
        name=name, family=family.name, family_config=generated.config.model_dump(mode="json"), task=task.name,
        training=training, checkpoint_steps=(0,), paper=str(paper or ""), parameters=parameters, buffers=buffers,
        versions={package: version(package) for package in ("metazoo", "torch", "zarr", "icechunk")},
        created=datetime.now(UTC).isoformat(timespec="seconds"), parent=parent,
    )  # fmt: skip
    columns = {
        **{key: drawn[key].to_numpy() for key in ("id", "seed", "instance", "label")},
        "split": np.array(drawn["split"].tolist(), dtype=object),
        "status": np.where(finite, "ok", "diverged").astype(object),
        "test_loss": loss.astype(np.float32),
        f"test_{task.metric}": score.astype(np.float32),
        "steps": np.zeros(count, np.int64),
        "wall_time": np.full(count, seconds, np.float32),
        "parent": np.full(count, parent, dtype=object),
        "source": np.full(count, "generated", dtype=object),
        **{key: np.asarray(value) for key, value in generated.columns.items()},
    }
    stored = {entry.name: state[entry.name].expand(count, 1, *entry.shape) for entry in buffers}
    return info, ModelBatch({key: value[:, None] for key, value in generated.parameters.items()}, stored, {}, columns)
