"""How arrays are laid out on disk: chunk and shard shapes, codecs, names of dimensions."""

from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

CHUNK_BYTES = 4 * 2**20  # of one chunk; damage and random reads are local to a chunk
CHUNK_MODELS = 64
SHARD_CHUNKS = 16  # models in one file: up to 1,024

Array = NDArray[Any]


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
    per_model = like.nbytes // max(len(like), 1) // (tail[0] if folder in ("params", "buffers") and tail[0] else 1)
    models = CHUNK_MODELS if text else max(1, min(CHUNK_MODELS, CHUNK_BYTES // max(per_model, 1)))
    if folder in ("params", "buffers"):
        chunk = (models, 1, *(max(size, 1) for size in tail[1:]))
        dimensions = ("model", "checkpoint", *(f"{name}_{axis}" for axis in range(len(tail) - 1)))
    else:
        chunk = (models, *(max(size, 1) for size in tail))
        dimensions = ("model", "step")[: 1 + len(tail)]
    return group.create_array(
        path,
        shape=(0, *tail),
        dtype=str if text else like.dtype,
        chunks=chunk,
        shards=None if text else (chunk[0] * SHARD_CHUNKS, *chunk[1:]),
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
        dimension_names=dimensions,
    )


def extend(array: zarr.Array[Any], values: Array) -> None:
    """Append values along the model axis."""
    start = array.shape[0]
    array.resize((start + len(values), *array.shape[1:]))
    array[start:] = values.astype(object) if values.dtype.kind in "UT" else values


def to_numpy(array: zarr.Array[Any], selection: Any) -> Array:
    """Read a selection; text comes back as Python strings in an object array."""
    values = np.asarray(array[selection])
    return values.astype(object) if values.dtype.kind in "UT" else values
