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
    """The whole array, `[model, …]`, copied once and then mapped; small arrays simply stay in memory."""
    held = population._held
    if path not in held:
        try:
            small = population.array(path).nbytes <= IN_MEMORY_BYTES
            held[path] = population._read(path) if small else mapped(population, path)
        except OSError:  # no room or no permission for copies: memory has to do
            held[path] = population._read(path)
    return held[path]


def mapped(population: "Population", path: str) -> NDArray[Any]:
    """The map of a copy of an array, `[model, …]`; writing into it changes no file. Raises `OSError` where there is no room for the copy."""
    where = f"{Path(population.zoo.path).absolute()}|{population.name}|{path}"
    prefix = hashlib.sha256(where.encode()).hexdigest()[:32]
    file = folder() / f"{prefix}-{population.snapshot_id}.npy"
    if not file.exists():
        _save(file, population, path)
        for older in file.parent.glob(f"{prefix}-*.npy"):
            if older != file:
                older.unlink(missing_ok=True)
    return np.load(file, mmap_mode="c")


def _save(file: Path, population: "Population", path: str) -> None:
    """Copy an array file by file of the zoo, so that it need not fit in memory."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".part")
    array = population.array(path)
    step = (array.shards or array.chunks)[0]
    try:
        with os.fdopen(handle, "wb") as stream:
            header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
            np.lib.format.write_array_header_2_0(stream, header)
            for start in range(0, array.shape[0], step):
                stream.write(np.ascontiguousarray(population._read(path, slice(start, start + step))).data)
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
