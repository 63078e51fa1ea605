"""What a shift moves: the parts of tensors that are computed with, and how operators move their entries about."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from graphs.interpreter import TURNS, call, widen
from graphs.program import Op

# Operators that read their data without computing, so that every entry of the result is one of the entries.
MOVES = frozenset(
    f"aten.{name}" for name in (
        "view", "reshape", "_unsafe_view", "permute", "transpose", "t", "unsqueeze", "squeeze", "flatten", "expand",
        "clone", "alias", "detach", "contiguous", "slice", "select", "split", "split_with_sizes", "unbind", "chunk",
        "flip", "repeat", "dropout", "lift_fresh_copy",
    )
)  # fmt: skip
LARGEST = 2**14  # numbers of a random tensor that does not overlap


@dataclass(frozen=True, eq=False)
class Leaf:
    """A part of a tensor that some operator computes with, after slicing and reshaping alone.

    Args:
        tensor: first name of the tensor.
        value: the value that is computed with.
        source: shape of the tensor.
        shape: of the part.
        trail: the operators that take the part out of the tensor, with the number of the output that is used.
        entries: flat indices into the tensor, if the part is not a whole value.
    """

    tensor: str
    value: int
    source: tuple[int, ...]
    shape: tuple[int, ...]
    trail: tuple[tuple[Op, int], ...] = ()
    entries: Tensor | None = None

    @property
    def positions(self) -> Tensor:
        """Flat indices into the tensor, of the shape of the part; made when asked for, they are as many as weights."""
        return self.locate(self.source)

    def locate(self, source: Sequence[int]) -> Tensor:
        """The positions in a tensor of another number of rows."""
        if self.entries is not None:
            return self.entries
        positions = torch.arange(math.prod(source)).reshape(tuple(source))
        for op, place in self.trail:
            positions = call(op, partial(where_moved, positions))[place]
        return positions

    @property
    def is_view(self) -> bool:
        """Whether it is the whole tensor, its dimensions perhaps reordered."""
        return self.entries is None and all(op.name in TURNS for op, _ in self.trail)

    def put(self, values: Tensor, source: Sequence[int]) -> Tensor:
        """Zeros of the tensor's shape with values of the shape of the part in its place, in double precision."""
        if self.is_view:  # of the values, whatever its size
            turned = torch.empty_strided(tuple(source), tuple(range(1, len(source) + 1)), device="meta")
            for op, place in self.trail:
                turned = call(op, partial(where_moved, turned))[place]
            lead = values.ndim - len(source)
            back = [lead + turned.stride().index(stride) for stride in range(1, len(source) + 1)]
            return widen(values).permute(*range(lead), *back)
        return placed(values, self.locate(source), source)


@dataclass(frozen=True)
class Sink:
    """A bias that takes a shift back, read off a value that is shifted.

    Args:
        value: the shifted value.
        tensor: first name of the bias tensor.
        entries: flat indices into the bias tensor.
        places: for each of them a flat index into the value that it is added to.
    """

    value: int
    tensor: str
    entries: Tensor
    places: Tensor


@dataclass(frozen=True, eq=False)
class Carried:
    """A leaf that is added to a value.

    Args:
        leaf: the leaf.
        where: of the shape of the value, flat indices into the tensor of the leaf: the entry added at every place.
    """

    leaf: Leaf
    where: Tensor

    @property
    def unique(self) -> tuple[Tensor, Tensor, Tensor]:
        """The entries that occur, the first place of each, and for every place the number of its entry."""
        flat = self.where.flatten()
        entries, inverse = flat.unique(return_inverse=True)
        places = torch.full((len(entries),), len(flat))
        return entries, places.scatter_reduce(0, inverse, torch.arange(len(flat)), "amin"), inverse


def placed(values: Tensor, positions: Tensor, shape: Sequence[int]) -> Tensor:
    """Zeros of a tensor's shape with values at flat positions, leading axes of the values kept."""
    lead = values.shape[: values.ndim - positions.ndim]
    flat = torch.zeros(*lead, math.prod(shape), dtype=widen(values[..., :0]).dtype)
    flat = flat.index_add(-1, positions.flatten(), widen(values.flatten(len(lead))))
    return flat.reshape(*lead, *shape)


def where_moved(where: Tensor, _: Any) -> Tensor:
    """The tensor itself, whatever stands in its place."""
    return where


def random_tensor(shape: tuple[int, ...], dtype: torch.dtype, spread: float, generator: torch.Generator) -> Tensor:
    """Normal numbers in double precision; those of a large tensor repeat along oblique lines, to share memory."""
    wide = widen(torch.empty(0, dtype=dtype)).dtype
    if math.prod(shape) <= LARGEST:
        return torch.randn(shape, generator=generator, dtype=wide) * spread
    strides = [2 * d + 1 for d in range(len(shape))]
    length = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    return (torch.randn(length, generator=generator, dtype=wide) * spread).as_strided(shape, strides)
