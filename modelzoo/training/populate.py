"""Populating a zoo: block by block, each block one commit, resumable at any time."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from modelzoo.console import console
from modelzoo.errors import UserError
from modelzoo.kernels import native
from modelzoo.store import Population, PopulationInfo, Zoo, manifest
from modelzoo.store.records import check_name
from modelzoo.training.choices import block_size
from modelzoo.training.config import Plan, PopulationConfig
from modelzoo.training.lockstep import schedule
from modelzoo.training.processes import trained

RESUMABLE = ("models", "block")  # fields that may change between the first call and a later one


def describe(plan: Plan, name: str) -> PopulationInfo:
    """The record of a population that is about to be created."""
    parameters, buffers = manifest(plan.family.build(plan.config, seed=0))
    steps = 1 if plan.family.fit else plan.recipe.steps
    source = plan.source
    return PopulationInfo(
        name=name,
        family=plan.family.name,
        family_config=plan.config.model_dump(mode="json"),
        task=plan.task.name,
        training={**source.model_dump(mode="json"), "recipe": plan.recipe.model_dump(mode="json"), "block": block_size(plan)},
        checkpoint_steps=schedule(steps, None if plan.family.fit else source.checkpoint_every, 1),
        metric_steps=schedule(steps, None if plan.family.fit else source.metric_every, 50),
        paper=str(plan.family.paper),
        parameters=parameters,
        buffers=buffers,
        versions={package: version(package) for package in ("metazoo", "torch", "zarr", "icechunk")},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def populate(
    zoo_path: str | Path, config: PopulationConfig, name: str | None = None, progress: bool = True, processes: int | None = None
) -> Population:  # fmt: skip
    """Create a population, or go on with one that was interrupted.

    Args:
        zoo_path: the zoo, made if it is not there.
        config: what to train.
        name: of the population, default `<family>-<task>`.
        progress: draw progress bars when standard output is a terminal.
        processes: that train, see `processes.trained`; this one alone writes.

    Raises:
        UserError: the config cannot run, the population was made with another one, or training failed or was interrupted (what
            was committed stays, the message says how to go on).
    """
    if processes is not None and processes < 1:
        raise UserError(f"processes must be at least 1, got {processes}.", 2)
    plan = Plan.of(config)
    wanted = describe(plan, check_name(name or f"{config.family}-{plan.task.name}".replace("_", "-")))
    zoo = Zoo.open_or_create(zoo_path)
    if wanted.name in zoo:
        population = zoo[wanted.name]
        _check_same(population, wanted)
        block = int(population.info.training["block"])
    else:
        population = zoo.create_population(wanted)
        block = int(wanted.training["block"])
    done = set(population.table.index)
    todo = [
        [i for i in range(start, min(start + block, config.models)) if i not in done]
        for start in range(0, config.models, block)
    ]
    todo = [ids for ids in todo if ids]
    if plan.family.not_vmappable and todo and progress:
        console.print(f"{plan.family.name} trains one model at a time: {plan.family.not_vmappable}")
    if todo and progress and not native.compiler():
        console.print(
            "there is no C++ compiler: perceptrons, convolutions and LSTMs train several times slower; install g++"
        )
    return _run(plan, population, todo, len(done), progress, processes)


def _run(
    plan: Plan, population: Population, todo: list[list[int]], done: int, progress: bool, processes: int | None
) -> Population:
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[loss]}"), TimeRemainingColumn(), console=console,
        disable=not progress or not console.is_terminal,
    )  # fmt: skip
    started, before = time.perf_counter(), done

    def show(within: float, loss: float) -> None:
        speed = (done + within - before) / (time.perf_counter() - started)
        shown = f"loss {loss:.3g}" if loss == loss else ""
        bar.update(line, completed=done + within, speed=f"{speed:.1f} models/s", loss=shown)

    with bar:
        line = bar.add_task(population.name, total=max(plan.source.models, done), completed=done, speed="", loss="")
        try:
            for batch in trained(plan, todo, processes, show):
                with _uninterrupted():
                    population.append(batch)
                done += len(batch)
                bar.update(line, completed=done)
        except KeyboardInterrupt:
            population.refresh()
            raise UserError(
                f"stopped with {len(population)} of {plan.source.models} models of {population.name!r} stored; run the same command to go on.", 130
            ) from None  # fmt: skip
    return population


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits for the end of the block: a batch that is trained is also stored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def _check_same(population: Population, wanted: PopulationInfo) -> None:
    """Refuse to mix models of different configs in one population."""

    def flat(info: PopulationInfo) -> dict[str, Any]:
        training = {key: value for key, value in info.training.items() if key not in RESUMABLE}
        return {**unknown, "family": info.family, **info.family_config, "task": info.task, **training}

    unknown = {"splits": PopulationConfig.model_fields["splits"].default}  # to populations of earlier versions

    have, want = flat(population.info), flat(wanted)
    for key in {**want, **have}:
        if have.get(key) != want.get(key):
            raise UserError(
                f"population {population.name!r} was made with {key} = {have.get(key)!r}, now it is {want.get(key)!r}; "
                "repeat the first command to resume, or choose another --name.")  # fmt: skip
