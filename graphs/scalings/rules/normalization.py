"""Reductions, pooling and normalizations."""

from typing import Any

from graphs.program import Op, Reference
from graphs.scalings.rules.pointwise import power
from graphs.scalings.walk import Scale, ScaleWalk, Terms, rule


def _axes(walk: ScaleWalk, op: Op, position: int = 1) -> list[int]:
    rank = len(walk.shape(op.arguments[0]))
    axes = op.argument(position, "dim")
    axes = [axes] if isinstance(axes, int) else axes
    return sorted({axis % rank for axis in axes}) if axes else list(range(rank))


def _reduced(walk: ScaleWalk, op: Op, terms: Terms, axes: list[int]) -> Terms:
    output = next(value for value in op.outputs if value is not None)
    if len(walk.program.values[output].shape) < len(walk.shape(op.arguments[0])):
        return [term.squeeze(tuple(axes)) for term in terms]
    return terms


@rule("aten.sum", "aten.mean", "aten.amax", "aten.amin", "aten.max", "aten.min")
def reduction(walk: ScaleWalk, op: Op) -> None:
    """Sums and extrema: the scale must not depend on what is summed over; an extremum has no sign."""
    axes = _axes(walk, op)
    if (
        "m" in op.name.removeprefix("aten.")[:2]
        and op.name not in ("aten.mean", "aten.sum")
        and walk.kind != "positive"
    ):
        walk.forbid(walk.terms(op.arguments[0]))
    kept = walk.forbid_along(walk.terms(op.arguments[0]), axes)
    scale = None if walk.scale(op.arguments[0]) is None else _reduced(walk, op, kept, axes)
    walk.set(op, scale)
    for index in range(1, len(op.outputs)):
        walk.set(op, [], index)


@rule("aten.linalg_vector_norm")
def vector_norm(walk: ScaleWalk, op: Op) -> None:
    """A norm is scaled with what it is taken of; it sees no signs and no phases."""
    terms, axes = walk.terms(op.arguments[0]), _axes(walk, op, 2)
    if walk.mixes or op.argument(1, "ord") == 0:
        walk.forbid(terms)
    scaled = walk.kind == "positive" and op.argument(1, "ord") != 0
    walk.set(op, _reduced(walk, op, walk.forbid_along(terms, axes), axes) if scaled else [])


@rule("aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d", "aten._adaptive_avg_pool2d", "aten.adaptive_avg_pool1d",
      "aten.max_pool2d_with_indices", "aten.upsample_nearest2d", "aten.upsample_bilinear2d")  # fmt: skip
def pooling(walk: ScaleWalk, op: Op) -> None:
    """Pooling and resizing in space."""
    rank = len(walk.shape(op.arguments[0]))
    spatial = 1 if "1d" in op.name else 3 if "3d" in op.name else 2
    terms = walk.terms(op.arguments[0])
    if "max" in op.name and walk.kind != "positive":
        walk.forbid(terms)
        terms = []
    walk.set(op, walk.forbid_along(terms, range(rank - spatial, rank)))
    for index in range(1, len(op.outputs)):
        walk.set(op, [], index)


@rule("aten.native_layer_norm", "aten._fused_rms_norm")
def layer_norm(walk: ScaleWalk, op: Op) -> None:
    """A normalization absorbs no scale (its ε does not scale along), but it carries a common sign."""
    source, normalized, weight = op.arguments[:3]
    rank = len(walk.shape(source))
    axes = range(rank - len(normalized), rank)
    terms = walk.terms(source)
    if walk.kind == "sign":
        terms = walk.forbid_along(terms, axes)
    elif walk.kind == "orthogonal" and op.name == "aten._fused_rms_norm" and weight is None and len(normalized) == 1:
        walk.contracted += [(term, (rank - 1,)) for term in terms if term.shape[-1] > 1]
    else:
        walk.forbid(terms)
        terms = []
    gain = _affine(walk, weight, rank)
    shift = _affine(walk, op.argument(3, "bias"), rank) if op.name == "aten.native_layer_norm" else None
    out: Scale = [*terms, *(gain or [])]
    if walk.mixes:
        walk.forbid(gain or [])
    walk.set(op, walk.equate(walk.collect(out or []), shift) if shift is not None else out)
    for index in range(1, len(op.outputs)):
        walk.set(op, [], index)


def _affine(walk: ScaleWalk, argument: Any, rank: int) -> Terms | None:
    if not isinstance(argument, Reference):
        return None
    return [term.reshape((1,) * (rank - term.ndim) + term.shape) for term in walk.terms(argument)]


@rule("aten._native_batch_norm_legit_no_training")
def batch_norm(walk: ScaleWalk, op: Op) -> None:
    """Fixed statistics: the mean is scaled along, and the variance with its ε by the square of a positive scale."""
    source, weight, bias, mean, variance = op.arguments[:5]
    rank = len(walk.shape(source))

    def channels(argument: Any) -> Terms | None:
        return [t.reshape(1, -1, *[1] * (rank - 2)) for t in walk.terms(argument)] if isinstance(argument, Reference) else None  # fmt: skip

    scale = walk.equate(walk.terms(source), channels(mean))
    name = next((name for name, value in walk.program.tensors.items() if value == variance.value), None)
    readers = [walk.program.ops[i] for i in walk.program.users()[variance.value]]
    if (
        walk.kind == "positive"
        and name in walk.parameters
        and {(r.name, r.arguments[-1]) for r in readers} == {(op.name, op.arguments[-1])}
    ):
        walk.offsets[name] = float(op.arguments[-1])
        halves = [walk.system.fresh(term.shape) for term in walk.terms(variance)]
        for half, term in zip(halves, walk.terms(variance), strict=True):
            walk.system.equation((2, half), (-1, term))
        roots = [power(walk, [half.reshape(1, -1, *[1] * (rank - 2))], -1)[0] for half in halves]
        scale = walk.collect([*(scale or []), *roots])
    else:
        walk.forbid(walk.terms(variance))
        if walk.kind != "sign":
            walk.forbid(scale or [])
            scale = []
    gain, shift = channels(weight), channels(bias)
    if walk.mixes:
        walk.forbid(gain or [])
    out = walk.collect([*(scale or []), *(gain or [])])
    walk.set(op, out if shift is None else walk.equate(out, shift))


@rule("aten.native_group_norm")
def group_norm(walk: ScaleWalk, op: Op) -> None:
    """Only the gain may be scaled, together with the shift."""
    source, weight, bias = op.arguments[:3]
    rank = len(walk.shape(source))
    walk.forbid(walk.terms(source))
    tail = [1] * (rank - 2)
    gain = [t.reshape(1, -1, *tail) for t in walk.terms(weight)] if isinstance(weight, Reference) else []
    shift = [t.reshape(1, -1, *tail) for t in walk.terms(bias)] if isinstance(bias, Reference) else None
    if walk.mixes:
        walk.forbid(gain)
    walk.set(op, gain if shift is None else walk.equate(gain, shift))
    for index in range(1, len(op.outputs)):
        walk.set(op, [], index)
