"""Memory-mapped copies of arrays, for random access: chunked random reads are a hundred times slower.

A copy is keyed by the content it was made from: the population, the array and the snapshot. It is written to a
temporary file first, so that another process never maps half of one.
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modelzoo.user_cache import cache_folder

if TYPE_CHECKING:
    from modelzoo.store.population import Population

IN_MEMORY_BYTES = 64 * 2**20


def folder() -> Path:
    """Where the copies live."""
    return cache_folder("arrays")


def memory_mapped(population: "Population", path: str) -> NDArray[Any]:
    """The whole array, `[model, …]`, read once and then mapped; small arrays simply stay in memory."""
    held = population._held
    if path not in held:
        small = population.array(path).nbytes <= IN_MEMORY_BYTES
        held[path] = population._read(path) if small else _mapped(population, path)
    return held[path]


def _mapped(population: "Population", path: str) -> NDArray[Any]:
    where = f"{Path(population.zoo.path).absolute()}|{population.name}|{path}"
    prefix = hashlib.sha256(where.encode()).hexdigest()[:32]
    file = folder() / f"{prefix}-{population.snapshot_id}.npy"
    if file.exists():
        return np.load(file, mmap_mode="r")
    values = population._read(path)
    try:
        _save(file, values)
        for older in file.parent.glob(f"{prefix}-*.npy"):
            if older != file:
                older.unlink(missing_ok=True)
        return np.load(file, mmap_mode="r")
    except OSError:  # no room or no permission for copies: memory has to do
        return values


def _save(file: Path, values: NDArray[Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            np.save(stream, values)
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
