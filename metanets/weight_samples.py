"""Models that a weight task samples, as a population of the zoo they were learned from."""

import time

import torch

from metanets.contender import Contender
from metanets.hyper.hypernetwork import Generated
from metanets.hyper.population import check_free, records
from metanets.hyper.target import Problem
from metanets.weight_board import Bench
from modelzoo.errors import UserError
from modelzoo.store import Population, Zoo
from modelzoo.store.records import check_name


def write(bench: Bench, contender: str, models: int, name: str, seed: int = 0) -> Population:
    """Sample models from the trained network of a task and write them as a population.

    Args:
        bench: the task on the population that was learned from.
        contender: the metanet, as it was written.
        models: how many.
        name: of the new population.
        seed: of the training and of the samples.

    Raises:
        UserError: the task makes no models, or the name is taken or not usable.
    """
    check_free(bench.zoo, check_name(name))
    started = time.perf_counter()
    experiment = bench.restored(Contender.read(contender), seed)
    if experiment.sample is None:
        raise UserError(f"weight task {bench.task.text!r} makes no models; leave --name out, or take the task sampling.", 2)  # fmt: skip
    torch.manual_seed(seed)
    made = experiment.sample(models)
    source = bench.block.population
    problem = Problem(source.family, source.config, source.task)
    training = {"weight_task": bench.task.text, "contender": contender, "population": source.name, "snapshot": bench.snapshot, "seed": seed}  # fmt: skip
    info, batch = records(
        name, Generated(source.config, made, {}), problem, f"weight task {bench.task.text} on {source.name}",
        bench.task.paper, training, seed, (time.perf_counter() - started) / models,
    )  # fmt: skip
    population = Zoo.open(bench.zoo, writable=True).create_population(info)
    population.append(batch, f"sample {models} models of {name}")
    return population
