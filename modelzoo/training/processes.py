"""Blocks of a population, trained here or in several processes of one thread each; nothing is stored.

Where there is no lock-step, a core trains one model while the others idle: then processes are what pays.
"""

import pickle
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache

import joblib
import torch

from modelzoo.errors import UserError
from modelzoo.store.records import ModelBatch
from modelzoo.training.config import Plan, PopulationConfig
from modelzoo.training.lockstep import Report, concatenate, train_population

WORTH = 20.0  # seconds of training; starting processes, each of which imports torch, takes a quarter of that


def trained(plan: Plan, blocks: Sequence[list[int]], processes: int | None, report: Report) -> Iterator[ModelBatch]:
    """Every block, in order. Families without lock-step always train on one thread, so that no bit depends on who trains.

    Args:
        plan: what to train.
        blocks: ids of the models of every block.
        processes: how many; None for one a thread of torch where there is no lock-step and training takes long, as the
            first share of it shows, else one.
        report: called now and then with the models that are done of the block and their mean loss.

    Raises:
        UserError: a process failed or was stopped.
    """
    alone = plan.family.not_vmappable is not None
    shares = [[i] for ids in blocks for i in ids] if alone else list(blocks)
    batches = _shares(plan, shares, processes, report)
    for ids in blocks:
        parts: list[ModelBatch] = []
        for _ in range(len(ids) if alone else 1):
            parts.append(next(batches))
            report(sum(map(len, parts)), float("nan"))
        yield parts[0] if len(parts) == 1 else concatenate(parts)


def _shares(plan: Plan, shares: Sequence[list[int]], processes: int | None, report: Report) -> Iterator[ModelBatch]:
    threads, alone = torch.get_num_threads(), bool(plan.family.not_vmappable or plan.family.fit)
    here = 1 if alone else threads
    if processes is None:
        processes = 1
        if alone and threads > 1 and len(shares) > 1:
            started = time.perf_counter()
            yield _train(plan, shares[0], here, None)
            shares = shares[1:]
            if (time.perf_counter() - started) * len(shares) > WORTH:
                processes = min(threads, len(shares))
    if processes == 1:
        for ids in shares:
            yield _train(plan, ids, here, None if alone else report)
        return
    try:
        with joblib.parallel_config("loky", n_jobs=processes, inner_max_num_threads=1):
            work = (joblib.delayed(train_elsewhere)(plan.source, ids) for ids in shares)
            for batch in joblib.Parallel(return_as="generator")(work):
                yield pickle.loads(batch)  # of our own process: no bytes from outside
    except BrokenProcessPool:
        raise UserError(
            f"one of {processes} training processes was stopped, perhaps for lack of memory; what was committed stays, "
            "run the same command with fewer --processes to go on."
        ) from None


def train_elsewhere(source: PopulationConfig, ids: list[int]) -> bytes:
    """A batch as bytes, trained in the process that is asked; what fails there is told in one sentence."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that commits
    try:
        return pickle.dumps(_train(_plan(source.model_dump_json()), ids, 1, None))
    except UserError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or ["no message"])[0]
        raise UserError(
            f"training models {ids[0]} to {ids[-1]} failed in a process of its own ({type(error).__name__}: {first}); "
            "--processes 1 shows where."
        ) from error


@cache
def _plan(source: str) -> Plan:
    return Plan.of(PopulationConfig.model_validate_json(source))


def _train(plan: Plan, ids: list[int], threads: int, report: Report | None) -> ModelBatch:
    with _threads(threads):
        return train_population(
            plan.family, plan.config, plan.task, plan.hyperparameters(ids), plan.recipe, plan.source.checkpoint_every,
            plan.source.metric_every, report,
        )  # fmt: skip


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
