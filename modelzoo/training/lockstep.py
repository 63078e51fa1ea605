"""Training a block of models from their first to their last checkpoint, with curves and the columns of the model table."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from modelzoo.family import Family, FamilyConfig, Recipe
from modelzoo.store.records import ModelBatch
from modelzoo.task import Split, Task, TaskData
from modelzoo.training.block import Block
from modelzoo.training.choices import prepare
from modelzoo.training.sampling import subset

Report = Callable[[float, float], None]  # (how many models' worth of work is done, mean loss)


def schedule(steps: int, every: int | None, default: int) -> tuple[int, ...]:
    """Steps 0, every, 2·every, …, steps; `default` intervals when `every` is None."""
    stride = every or max(1, -(-steps // default))
    return (*range(0, steps, stride), steps)


def train_population(
    family: Family,
    config: FamilyConfig,
    task: Task,
    hyperparameters: pd.DataFrame,
    recipe: Recipe,
    checkpoint_every: int | None = None,
    metric_every: int | None = None,
    report: Report | None = None,
) -> ModelBatch:
    """Train one block of models; nothing is stored.

    Args:
        family: the architecture family.
        config: its config.
        task: what to learn.
        hyperparameters: one row a model: `id seed split instance label learning_rate weight_decay data_fraction init_scale`.
        recipe: steps, batch size, optimizer, clipping.
        checkpoint_every: steps between checkpoints, None for first and last.
        metric_every: steps between entries of the loss curve, None for about fifty.
        report: called now and then with the models' worth of work done so far in this block and the mean loss.

    Returns:
        Parameters and buffers `[model, checkpoint, *shape]`, curves `train_loss` and `test_<metric>` `[model, step]`
        (the test metric is known at checkpoints, NaN between), and the columns of the model table.
    """
    run = _lockstep if family.fit is None else _fit_each
    if family.not_vmappable is None:
        return run(family, config, task, hyperparameters, recipe, checkpoint_every, metric_every, report)
    batches = []
    for i in range(len(hyperparameters)):
        own = (lambda models, loss, i=i: report(i + models, loss)) if report else None
        row = hyperparameters.iloc[i : i + 1]
        batches.append(run(family, config, task, row, recipe, checkpoint_every, metric_every, own))
    return concatenate(batches)


def _lockstep(
    family: Family, config: FamilyConfig, task: Task, hyperparameters: pd.DataFrame, recipe: Recipe,
    checkpoint_every: int | None, metric_every: int | None, report: Report | None,
) -> ModelBatch:  # fmt: skip
    started = time.perf_counter()
    models = len(hyperparameters)
    checkpoints = schedule(recipe.steps, checkpoint_every, 1)
    entries = schedule(recipe.steps, metric_every, 50)
    block, trainer = prepare(family, config, task, hyperparameters, recipe)
    states: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    curve = {step: np.full(models, np.nan, dtype=np.float32) for step in entries}
    tested = {step: np.full(models, np.nan, dtype=np.float32) for step in entries}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(hyperparameters["seed"].iloc[0]))
        milestones = sorted({*checkpoints, *entries})
        for step, following in zip(milestones, [*milestones[1:], None], strict=True):
            if step in checkpoints:
                states.append(block.state())
                test_loss, test_score = (values.numpy() for values in block.test())
                if step in tested:
                    tested[step] = test_score
            if following is None:
                break
            losses = trainer.train(following - step)
            if step in curve:
                curve[step] = losses.numpy()
                if report:
                    finite = curve[step][np.isfinite(curve[step])]
                    report(models * step / recipe.steps, float(finite.mean()) if len(finite) else float("nan"))
        with torch.no_grad():
            # of the stored state, on the next batch; it may change batch-norm statistics, so it is last
            final = block.loss(trainer.next_rows()).float().numpy()
        curve[recipe.steps] = final
        alive = trainer.alive & _finite(block.parameters, models) & torch.from_numpy(np.isfinite(final))
    columns = _columns(hyperparameters, task, alive.numpy(), final, test_loss, test_score, recipe.steps, time.perf_counter() - started)  # fmt: skip
    return ModelBatch(
        {name: torch.stack([state[0][name] for state in states], 1) for name in block.parameters},
        {name: torch.stack([state[1][name] for state in states], 1) for name in block.stored_buffers},
        {"train_loss": np.stack(list(curve.values()), 1), f"test_{task.metric}": np.stack(list(tested.values()), 1)},
        columns,
    )


def _finite(parameters: dict[str, Tensor], models: int) -> Tensor:
    finite = torch.ones(models, dtype=torch.bool)
    for stack in parameters.values():
        finite &= stack.detach().isfinite().reshape(models, -1).all(1)
    return finite


def _columns(
    hyperparameters: pd.DataFrame, task: Task, alive: Any, train_loss: Any, test_loss: Any, test_score: Any, steps: int, seconds: float,
) -> dict[str, Any]:  # fmt: skip
    count = len(hyperparameters)
    own = {str(name): hyperparameters[name].to_numpy() for name in hyperparameters}
    own["split"] = np.array(hyperparameters["split"].tolist(), dtype=object)
    return {
        **own,
        "status": np.where(alive, "ok", "diverged").astype(object),
        "train_loss": _single(train_loss),
        "test_loss": _single(test_loss),
        f"test_{task.metric}": _single(test_score),
        "steps": np.full(count, steps),
        "wall_time": np.full(count, seconds / count, dtype=np.float32),
        "parent": np.full(count, "", dtype=object),
        "source": np.full(count, "trained", dtype=object),
    }


def _single(values: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # of a diverged model in double precision: infinite is what it is
        return np.asarray(values, dtype=np.float32)


def concatenate(batches: list[ModelBatch]) -> ModelBatch:
    """One batch out of many, models in order."""

    def join(part: str) -> dict[str, Any]:
        names = list(getattr(batches[0], part))
        return {name: np.concatenate([np.asarray(getattr(batch, part)[name]) for batch in batches]) for name in names}

    return ModelBatch(join("parameters"), join("buffers"), join("metrics"), join("columns"))


def _fit_each(
    family: Family, config: FamilyConfig, task: Task, hyperparameters: pd.DataFrame, recipe: Recipe,
    checkpoint_every: int | None, metric_every: int | None, report: Report | None,
) -> ModelBatch:  # fmt: skip
    """Families that are fitted in one shot to their share of the data: the checkpoints are before and after the fit."""
    assert family.fit is not None
    started = time.perf_counter()
    block = Block(family, config, task, hyperparameters)
    before = block.state()
    before_score = block.test()[1].numpy()
    for model, (seed, fraction) in enumerate(
        zip(hyperparameters["seed"], hyperparameters["data_fraction"], strict=True)
    ):
        module: nn.Module = family.build(config, seed=int(seed))
        with torch.no_grad():
            for name, stack in block.parameters.items():
                module.get_parameter(name).copy_(stack[model])
        family.fit(module, _share(task, block.data, int(seed), fraction), int(seed))
        for name, stack in block.parameters.items():
            stack.detach()[model] = module.get_parameter(name).detach()
        for name, stack in block.buffers.items():
            stack[model] = module.get_buffer(name)
        if report:
            report(model + 1.0, float("nan"))
    after = block.state()
    with torch.no_grad():
        train_loss = block.outputs_and(block.task.loss, block.data.train, None, train=False).numpy()
    test_loss, test_score = (values.numpy() for values in block.test())
    alive = _finite(block.parameters, len(hyperparameters)).numpy()
    nothing = np.full_like(train_loss, np.nan)
    return ModelBatch(
        {name: torch.stack([before[0][name], after[0][name]], 1) for name in block.parameters},
        {name: torch.stack([before[1][name], after[1][name]], 1) for name in block.stored_buffers},
        {
            "train_loss": np.stack([nothing, train_loss], 1),
            f"test_{task.metric}": np.stack([before_score, test_score], 1),
        },
        _columns(hyperparameters, task, alive, train_loss, test_loss, test_score, 1, time.perf_counter() - started),
    )


def _share(task: Task, data: TaskData, seed: int, fraction: float) -> TaskData:
    if fraction >= 1 or task.sampling == "full":
        return data
    rows = torch.from_numpy(subset(np.random.default_rng(seed), len(data.train.targets), fraction, 1))
    return replace(data, train=Split(tuple(x[rows] for x in data.train.inputs), data.train.targets[rows]))
