"""How arrays are laid out on disk: chunk and shard shapes, codecs, names of dimensions."""

import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import icechunk
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

CHUNK_BYTES = 4 * 2**20  # of one chunk; damage and partial reads are local to a chunk
FEWEST_MODELS, MOST_MODELS = (
    16,
    512,
)  # in a file of tensors: as many as the first batch, for a file is written anew at every commit
TABLE_MODELS = 1024  # in a file of the table: its rows are small

# What reading raises when bytes are missing or wrong; a ValueError also means other things, see Population._read.
UNREADABLE = (icechunk.IcechunkError, ValueError, RuntimeError, OSError)
THREADS = 8  # arrays that are read or written at a time

Array = NDArray[Any]
Result = TypeVar("Result")


def create(group: zarr.Group, path: str, like: Array) -> zarr.Array[Any]:
    """A new array of length 0 along the model axis.

    Args:
        group: the population's group.
        path: `params/…`, `buffers/…`, `metrics/…` or `columns/…`.
        like: a batch of values `[model, …]` that tells dtype and trailing shape.
    """
    folder, name = path.split("/", 1)
    text = like.dtype.kind in "UTO"
    tail = like.shape[1:]
    sizes = tuple(max(size, 1) for size in tail)
    if folder in ("params", "buffers"):
        fitting = CHUNK_BYTES // (like.itemsize * math.prod(sizes[1:]))
        models = max(1, min(fitting, MOST_MODELS, max(len(like), FEWEST_MODELS)))
        chunk, shard = (models, 1, *sizes[1:]), (models, *sizes)
        dimensions = ("model", "checkpoint", *(f"{name}_{axis}" for axis in range(len(tail) - 1)))
    else:
        chunk = shard = (TABLE_MODELS, *sizes)
        dimensions = ("model", "step")[: 1 + len(tail)]
    return group.create_array(
        path,
        shape=(0, *tail),
        dtype=str if text else like.dtype,
        chunks=chunk,
        shards=shard if shard != chunk else None,
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
        dimension_names=dimensions,
    )


def open_all(group: zarr.Group) -> dict[str, zarr.Array[Any]]:
    """Every array of a population's group by its path, sorted."""
    members = group.members(max_depth=2)
    return {path: member for path, member in sorted(members) if isinstance(member, zarr.Array)}


def extend(arrays: Mapping[str, zarr.Array[Any]], values: Mapping[str, Array]) -> None:
    """Append values along the model axis of several arrays."""

    def one(path: str) -> None:
        array, new = arrays[path], values[path]
        start = array.shape[0]
        array.resize((start + len(new), *array.shape[1:]))
        array[start:] = new.astype(object) if new.dtype.kind in "UT" else new

    together(one, values)


def together(work: Callable[[str], Result], paths: Iterable[str]) -> list[Result]:
    """`work` on every path, several at a time, because reading and writing chunks is mostly waiting."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, paths))


def to_numpy(array: zarr.Array[Any], selection: Any) -> Array:
    """Read a selection; text comes back as Python strings in an object array."""
    values = np.asarray(array[selection])
    return values.astype(object) if values.dtype.kind in "UT" else values
