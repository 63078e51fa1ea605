"""Integrity check of a population: every chunk readable, lengths equal, values sane."""

from typing import TYPE_CHECKING, Any

import numpy as np

from modelzoo.store import arrays
from modelzoo.store.records import STATUSES, Problem

if TYPE_CHECKING:
    from modelzoo.store.population import Population


def check(population: "Population") -> list[Problem]:
    """Problems of one population; an empty list means that all is well."""
    problems: list[Problem] = []

    def report(array: str, models: Any, message: str) -> None:
        problems.append(Problem(population.name, array, tuple(int(model) for model in models), message))

    count = len(population)
    damaged = {path: damaged_models(population, path) for path in population.paths()}
    for path, models in damaged.items():
        if models:
            report(path, models, "chunk unreadable or checksum wrong")
        if (length := population.array(path).shape[0]) != count:
            report(path, (), f"has {length} models where the table has {count}")
    for path in population.info.tensors:
        if count and path not in damaged:
            report(path, (), "missing")
    if any(damaged.get(f"columns/{name}") for name in ("id", "status")) or not count:
        return problems
    ids = arrays.to_numpy(population.array("columns/id"), slice(None))
    status = arrays.to_numpy(population.array("columns/status"), slice(None)) if "columns/status" in damaged else None
    if len(np.unique(ids)) != count:
        report("columns/id", (), "two models have the same id")
    if status is None:
        return problems
    if unknown := set(status) - set(STATUSES):
        report("columns/status", ids[np.isin(status, list(unknown))], f"unknown status {sorted(unknown)}")
    for path in population.info.tensors:
        if damaged.get(path) or path not in damaged:
            continue
        values = arrays.to_numpy(population.array(path), (slice(None), -1))
        if values.dtype.kind in "fc":
            bad = ~np.isfinite(values).all(axis=tuple(range(1, values.ndim))) & (status == "ok")
            if bad.any():
                report(path, ids[bad], "not finite although the status is ok")
    return problems


def damaged_models(population: "Population", path: str) -> list[int]:
    """Ids (positions, where the ids themselves are damaged) of the models whose chunks of this array cannot be read."""
    array = population.array(path)
    step = array.chunks[0]
    bad: list[int] = []
    for start in range(0, array.shape[0], step):
        try:
            arrays.to_numpy(array, slice(start, start + step))
        except Exception:  # any failure to read is exactly what is looked for here
            bad.extend(range(start, min(start + step, array.shape[0])))
    if not bad or path == "columns/id" or damaged_models(population, "columns/id"):
        return bad
    return [int(model) for model in arrays.to_numpy(population.array("columns/id"), slice(None))[bad]]
