"""Reductions, and operators that depend on the order along a dimension."""

from collections.abc import Sequence
from typing import Any

from graphs.algebra import Labels
from graphs.labels import Walk
from graphs.program import Op
from graphs.rules import rule
from graphs.rules.shape import pin


def axes_of(argument: Any, rank: int) -> list[int]:
    """The dimensions an argument names: all for None or an empty list."""
    if argument is None or argument == ():
        return list(range(rank))
    chosen = argument if isinstance(argument, Sequence) else [argument]
    return [int(axis) % rank for axis in chosen] if rank else []


@rule(
    "aten.sum", "aten.mean", "aten.amax", "aten.amin", "aten.prod", "aten.var", "aten.std", "aten.any", "aten.all",
    "aten.logsumexp", "aten.var_mean", "aten.nansum", "aten.max.default", "aten.min.default", "aten.count_nonzero",
)  # fmt: skip
def reduce(walk: Walk, op: Op) -> Labels | list[Labels | None]:
    """A reduction that does not see the order of what it reduces."""
    return _reduced(walk, op, op.argument(1, "dim"), [len(walk.out_shape(op, k)) for k in range(len(op.outputs))])


@rule("aten.linalg_vector_norm", "aten.norm")
def norm(walk: Walk, op: Op) -> Labels | list[Labels | None]:
    """A vector norm over some dimensions."""
    return _reduced(walk, op, op.argument(2, "dim"), [len(walk.out_shape(op))])


def _reduced(walk: Walk, op: Op, dim: Any, ranks: Sequence[int]) -> Labels | list[Labels | None]:
    labels = walk.labels(op.arguments[0])
    axes = axes_of(dim, len(labels)) if not isinstance(dim, bool) else list(range(len(labels)))
    keep = max(ranks) == len(labels)
    out = walk.algebra.reduce(labels, axes, keep)
    return out if len(ranks) == 1 else [out] * len(ranks)


@rule("aten.max.dim", "aten.min.dim", "aten.median.dim", "aten.mode", "aten.nanmedian.dim", "aten.kthvalue")
def extremum(walk: Walk, op: Op) -> list[Labels | None]:
    """An extremum along a dimension; if its place is used too, that dimension is fixed."""
    labels = walk.labels(op.arguments[0])
    dim = op.arguments[2] if op.name == "aten.kthvalue" else op.argument(1, "dim", -1)
    axis = dim % len(labels)
    if op.outputs[1] is not None:
        pin(walk, labels, op.name, [axis])
    value = next(value for value in op.outputs if value is not None)
    out = walk.algebra.reduce(labels, [axis], keep=len(walk.program.values[value].shape) == len(labels))
    return [out, out]


@rule("aten.argmax", "aten.argmin")
def place_of_extremum(walk: Walk, op: Op) -> Labels:
    """The place of an extremum: the dimension it counts along is fixed."""
    labels = walk.labels(op.arguments[0])
    axes = axes_of(op.argument(1, "dim"), len(labels))
    pin(walk, labels, op.name, axes)
    return walk.algebra.reduce(labels, axes, keep=len(walk.out_shape(op)) == len(labels))


@rule("aten.cumsum", "aten.cumprod", "aten.logcumsumexp", "aten.cummax", "aten.cummin")
def cumulative(walk: Walk, op: Op) -> Labels | list[Labels | None]:
    """A running reduction: its dimension is fixed."""
    out = ordered(walk, op, [op.arguments[1]])
    return [out] * len(op.outputs) if len(op.outputs) > 1 else out


@rule("aten.sort", "aten.topk", "aten.argsort")
def sort(walk: Walk, op: Op) -> list[Labels | None]:
    """Sorting: ranks are fixed, and so is the dimension if the places are used."""
    labels = walk.labels(op.arguments[0])
    position = 2 if op.name == "aten.topk" else 1
    stable = op.target == "aten.sort.stable"
    axis = op.argument(2 if stable else position, "dim", -1) % len(labels)
    if op.name == "aten.argsort" or op.outputs[1] is not None:
        pin(walk, labels, op.name, [axis])
    kept = walk.algebra.reduce(labels, [axis], keep=True)
    size = walk.program.values[next(v for v in op.outputs if v is not None)].shape[axis]
    ranks = walk.algebra.positions(size, axis, len(labels), "rank")
    out = (*kept[:axis], ranks, *kept[axis + 1 :])
    return [out] * len(op.outputs)


def ordered(walk: Walk, op: Op, dims: Sequence[int]) -> Labels:
    """Labels after an op that sees the order along some dimensions: they are fixed and may change their size."""
    algebra, labels = walk.algebra, walk.labels(op.arguments[0])
    axes = [dim % len(labels) for dim in dims]
    pin(walk, labels, op.name, axes)
    kept = list(algebra.reduce(labels, axes, keep=True))
    value = next(value for value in op.outputs if value is not None)
    for axis in axes:
        size = walk.program.values[value].shape[axis]
        kept[axis] = algebra.positions(size, axis, len(labels), "position")
    return tuple(kept)


@rule("aten._fft_r2c", "aten._fft_c2c", "aten._fft_c2r")
def fft(walk: Walk, op: Op) -> Labels:
    """Fourier transform: positions and frequencies are fixed, channels carried."""
    return ordered(walk, op, op.arguments[1])


@rule(
    "aten.max_pool2d_with_indices", "aten.max_pool3d_with_indices", "aten.avg_pool1d", "aten.avg_pool2d",
    "aten.avg_pool3d", "aten._adaptive_avg_pool2d", "aten._adaptive_avg_pool3d", "aten.adaptive_avg_pool1d",
    "aten.adaptive_max_pool2d", "aten.adaptive_max_pool3d", "aten.max_pool2d", "aten.max_pool1d",
)  # fmt: skip
def pool(walk: Walk, op: Op) -> list[Labels | None]:
    """Pooling: positions are fixed, channels carried."""
    window = op.arguments[1]
    count = len(window) if isinstance(window, tuple) else 1
    rank = len(walk.shape(op.arguments[0]))
    return [ordered(walk, op, range(rank - count, rank))] * len(op.outputs)


@rule(
    "aten.upsample_nearest1d", "aten.upsample_nearest2d", "aten.upsample_nearest3d", "aten.upsample_linear1d",
    "aten.upsample_bilinear2d", "aten.upsample_trilinear3d", "aten.upsample_bicubic2d", "aten._upsample_bilinear2d_aa",
    "aten.reflection_pad1d", "aten.reflection_pad2d", "aten.reflection_pad3d", "aten.replication_pad1d",
    "aten.replication_pad2d", "aten.replication_pad3d",
)  # fmt: skip
def resample(walk: Walk, op: Op) -> Labels:
    """Interpolation or padding of positions: they are fixed, channels carried."""
    changed = {"1d": 1, "2d": 2, "3d": 3}[next(size for size in ("1d", "2d", "3d") if size in op.name)]
    rank = len(walk.shape(op.arguments[0]))
    return ordered(walk, op, range(rank - changed, rank))
