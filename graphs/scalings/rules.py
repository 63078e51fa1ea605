"""How every operator carries scales on, one small function an operator or a family of operators."""

from typing import Any

import numpy as np

from graphs.program import Op, Reference
from graphs.scalings.system import Ids
from graphs.scalings.walk import Scale, ScaleWalk, Terms, rule

# Pointwise functions: degree of positive homogeneity (None: not homogeneous) and parity (None: neither).
# "A Characterization Theorem for Equivariant Networks with Point-wise Activations" (S085) proves the table complete.
RESPONSE: dict[str, tuple[int | None, str | None]] = {
    "relu": (1, None), "leaky_relu": (1, None), "abs": (1, "even"), "neg": (1, "odd"), "sgn": (0, "odd"),
    "sign": (0, "odd"), "tanh": (None, "odd"), "sin": (None, "odd"), "tan": (None, "odd"), "asin": (None, "odd"),
    "atan": (None, "odd"), "sinh": (None, "odd"), "asinh": (None, "odd"), "atanh": (None, "odd"), "erf": (None, "odd"),
    "cos": (None, "even"), "cosh": (None, "even"), "hardtanh": (None, None), "reciprocal": (-1, "odd"),
}  # fmt: skip
SAME = ("clone", "alias", "_to_copy", "detach", "lift_fresh_copy", "contiguous", "dropout", "positive")


@rule(*(f"aten.{name}" for name in SAME))
def same(walk: ScaleWalk, op: Op) -> None:
    """The value itself."""
    walk.set(op, walk.scale(op.arguments[0]))


@rule(*(f"aten.{name}" for name in RESPONSE))
def activation(walk: ScaleWalk, op: Op) -> None:
    """A pointwise function with its response to scales and signs."""
    walk.set(op, respond(walk, walk.scale(op.arguments[0]), *RESPONSE[op.name.removeprefix("aten.")]))


def respond(walk: ScaleWalk, scale: Scale, degree: int | None, parity: str | None) -> Scale:
    """Scale of f(x) for a pointwise f of that degree and parity with f(0) = 0 where the degree is positive."""
    terms = scale or []
    linear = degree == 1 and parity == "odd"
    if walk.kind == "sign" and parity is not None:
        return scale if parity == "odd" else []
    if walk.kind == "positive" and degree is not None:
        return None if scale is None and degree > 0 else power(walk, terms, degree)
    if linear or (walk.kind == "phase" and degree == -1):
        return scale if linear else power(walk, terms, -1)
    walk.forbid(terms)
    return None if scale is None and parity == "odd" else []


def power(walk: ScaleWalk, terms: Terms, exponent: int) -> Terms:
    """Terms multiplied by an integer."""
    if exponent == 1:
        return terms
    if exponent == 0:
        return []
    return [walk.system.combination((exponent, term)) for term in terms]


@rule("aten.pow", "aten.square", "aten.sqrt", "aten.rsqrt")
def powers(walk: ScaleWalk, op: Op) -> None:
    """x^n for a whole number n, and the roots."""
    scale = walk.scale(op.arguments[0])
    exponent: Any = {"aten.square": 2, "aten.sqrt": 0.5, "aten.rsqrt": -0.5}.get(op.name) or op.argument(1, "exponent")
    if isinstance(exponent, Reference) or isinstance(op.arguments[0], int | float):
        for argument in op.arguments:
            walk.forbid(walk.terms(argument) if isinstance(argument, Reference) else [])
        walk.set(op, [])
    elif float(exponent).is_integer():
        n = int(exponent)
        if n == 2 and walk.kind == "orthogonal" and _only_summed(walk, op):
            walk.set(op, [])
        else:
            walk.set(op, respond(walk, scale, n, "even" if n % 2 == 0 else "odd"))
    elif abs(float(exponent)) == 0.5 and walk.kind == "positive":
        halves = [walk.system.fresh(term.shape) for term in walk.terms(op.arguments[0])]
        for half, term in zip(halves, walk.terms(op.arguments[0]), strict=True):
            walk.system.equation((2, half), (-1, term))
        walk.set(op, halves if float(exponent) > 0 else power(walk, halves, -1))
    else:
        walk.forbid(walk.terms(op.arguments[0]))
        walk.set(op, [])


def _only_summed(walk: ScaleWalk, op: Op) -> bool:
    """Whether a square is used for nothing but a sum over every dimension that its argument is mixed along."""
    along = {d for term in walk.terms(op.arguments[0]) if term.any() for d, size in enumerate(term.shape) if size > 1}
    users = [walk.program.ops[i] for i in walk.program.users()[op.output]]
    rank = len(walk.program.values[op.output].shape)
    for user in users:
        if user.name not in ("aten.sum", "aten.mean"):
            return False
        axes = user.argument(1, "dim") or range(rank)
        if not along <= {axis % rank for axis in axes}:
            return False
    if len(along) > 1:
        return False
    for term in walk.terms(op.arguments[0]):
        walk.contracted.append((term, tuple(along)))
    return bool(users)


@rule(
    "aten.add",
    "aten.sub",
    "aten.rsub",
    "aten.maximum",
    "aten.minimum",
    "aten.where",
    "aten.masked_fill",
    "aten.complex",
)
def addition(walk: ScaleWalk, op: Op) -> None:
    """Operands that must be scaled alike."""
    arguments = list(op.arguments)
    if op.name in ("aten.where", "aten.masked_fill"):
        walk.forbid(walk.terms(arguments.pop(0 if op.name == "aten.where" else 1)))
    else:
        arguments = arguments[:2]
    if walk.kind == "sign" and op.name in ("aten.maximum", "aten.minimum"):
        for argument in arguments:
            walk.forbid(walk.terms(argument))
    shape = walk.program.values[op.output].shape
    total: Scale = None
    for argument in arguments:
        if walk.scale(argument) is not None:
            total = walk.equate(total, walk.lift(argument, shape) if isinstance(argument, Reference) else [])
    walk.set(op, total)


@rule("aten.mul", "aten.div")
def product(walk: ScaleWalk, op: Op) -> None:
    """Scales of factors add up."""
    left, right = op.arguments[:2]
    if walk.scale(left) is None or (walk.scale(right) is None and op.name == "aten.mul"):
        walk.set(op, None)
        return
    shape = walk.program.values[op.output].shape
    square = isinstance(left, Reference) and left == right and op.name == "aten.mul"
    if square and walk.kind == "orthogonal" and _only_summed(walk, op):
        walk.set(op, [])
        return
    if op.keywords.get("rounding_mode"):
        walk.forbid([*walk.terms(left), *walk.terms(right)])
    a, b = walk.lift(left, shape), walk.lift(right, shape)
    if walk.mixes:
        a, b = _not_along(walk, a, right, shape), _not_along(walk, b, left, shape)
        if op.name == "aten.div":
            walk.forbid(b)
    walk.set(op, walk.collect([*a, *b], [1] * len(a) + [1 if op.name == "aten.mul" else -1] * len(b)))


def _not_along(walk: ScaleWalk, terms: Terms, other: Any, shape: tuple[int, ...]) -> Terms:
    """An axis is only mixed if the other factor does not vary along it."""
    size = (1,) * (len(shape) - len(walk.shape(other))) + walk.shape(other)
    return walk.forbid_along(terms, [d for d, n in enumerate(size) if n > 1])


# --- contractions ---------------------------------------------------------------------------------------------------


def matrix_product(walk: ScaleWalk, left: Scale, right: Scale) -> Scale:
    """Scale of `left @ right` of equal rank."""
    if left is None or right is None:
        return None
    rank = left[0].ndim if left else right[0].ndim if right else 0
    a = [term[..., None] for term in left]  # [*, m, k, 1]
    b = [term[..., None, :, :] for term in right]  # [*, 1, k, n]
    kept = walk.contract([*a, *b], [rank - 1])
    return [term.squeeze(rank - 1) for term in kept]


@rule("aten.mm", "aten.bmm")
def matmul(walk: ScaleWalk, op: Op) -> None:
    """Matrix product."""
    walk.set(op, matrix_product(walk, *map(walk.scale, op.arguments[:2])))


@rule("aten.addmm", "aten.baddbmm")
def addmm(walk: ScaleWalk, op: Op) -> None:
    """Matrix product plus bias."""
    made = matrix_product(walk, *map(walk.scale, op.arguments[1:3]))
    bias = walk.lift(op.arguments[0], walk.program.values[op.output].shape)
    walk.set(op, walk.equate(made, bias if walk.scale(op.arguments[0]) is not None else None))


@rule("aten.mv", "aten.dot")
def vector_product(walk: ScaleWalk, op: Op) -> None:
    """Product with a vector."""
    left, right = op.arguments[:2]
    rank = len(walk.shape(left))
    a, b = walk.terms(left), [t.reshape((1,) * (rank - 1) + t.shape) for t in walk.terms(right)]
    kept = walk.contract([*a, *b], [rank - 1])
    walk.set(op, [term.squeeze(rank - 1) for term in kept])


@rule("aten.convolution")
def convolution(walk: ScaleWalk, op: Op) -> None:
    """Contraction over the input channels of each group; positions and kernel taps stay as they are."""
    source, weight, bias, _, _, _, transposed, _, groups = op.arguments
    rank = len(walk.shape(source))
    spatial = range(2, rank)
    x = walk.forbid_along(walk.terms(source), spatial)
    w = walk.forbid_along(walk.terms(weight), spatial)
    if transposed:
        if groups > 1:
            walk.forbid([*x, *w])
            x, w = [], []
        w = [np.swapaxes(term, 0, 1) for term in w]
    tail = (1,) * (rank - 2)
    terms = [_grouped(term, 1, groups)[:, :, None] for term in x]  # [n, g, 1, i, *]
    terms += [_grouped(term, 0, groups)[None] for term in w]  # [1, g, o, i, *]
    kept = [term.squeeze(3) for term in walk.contract(terms, [3])]  # [n, g, o, *]
    out: Terms = []
    for term in kept:
        size = (term.shape[0], groups, walk.program.values[op.output].shape[1] // groups)
        spans = term.shape[1] > 1 or term.shape[2] > 1
        full = np.broadcast_to(term, (*size, *tail)) if spans else term
        out.append(full.reshape(full.shape[0], -1, *tail))
    made: Scale = None if walk.scale(source) is None else out
    if bias is not None:
        made = walk.equate(made, [term.reshape(1, -1, *tail) for term in walk.terms(bias)])
    walk.set(op, made)


def _grouped(term: Ids, axis: int, groups: int) -> Ids:
    """Open one dimension into (group, member)."""
    size = term.shape[axis]
    parts = (groups, size // groups) if size > 1 and size % groups == 0 else (1, size)
    return term.reshape(*term.shape[:axis], *parts, *term.shape[axis + 1 :])


@rule("aten.embedding")
def embedding(walk: ScaleWalk, op: Op) -> None:
    """Rows of a table; the scale is that of the features, the same for every row."""
    rank = len(walk.program.values[op.output].shape)
    kept = walk.forbid_along(walk.terms(op.arguments[0]), [0])
    walk.set(op, [term.reshape((1,) * (rank - 1) + (-1,)) for term in kept])


@rule("aten._scaled_dot_product_flash_attention_for_cpu", "aten.scaled_dot_product_attention")
def attention(walk: ScaleWalk, op: Op) -> None:
    """softmax(q kᵀ) v: nothing may scale the logits."""
    query, key, value = (walk.scale(argument) for argument in op.arguments[:3])
    logits = matrix_product(walk, query, None if key is None else [np.swapaxes(term, -1, -2) for term in key])
    walk.forbid(logits or [])
    walk.set(op, matrix_product(walk, [], value))
    for index in range(1, len(op.outputs)):
        walk.set(op, [], index)


# --- reductions and normalizations ----------------------------------------------------------------------------------


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
    """Fixed statistics: signs move the mean along, positive scales are held by the ε beside the variance."""
    source, weight, bias, mean, variance = op.arguments[:5]
    rank = len(walk.shape(source))

    def channels(argument: Any) -> Terms | None:
        return [t.reshape(1, -1, *[1] * (rank - 2)) for t in walk.terms(argument)] if isinstance(argument, Reference) else None  # fmt: skip

    walk.forbid(walk.terms(variance))
    scale = walk.equate(walk.terms(source), channels(mean))
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


# --- shapes ---------------------------------------------------------------------------------------------------------


@rule("aten.permute")
def permute(walk: ScaleWalk, op: Op) -> None:
    """Dimensions in another order."""
    scale = walk.scale(op.arguments[0])
    walk.set(op, None if scale is None else [term.transpose(op.arguments[1]) for term in scale])


@rule("aten.view", "aten.reshape", "aten._unsafe_view")
def view(walk: ScaleWalk, op: Op) -> None:
    """Dimensions merged and split."""
    scale = walk.scale(op.arguments[0])
    old, new = walk.shape(op.arguments[0]), walk.program.values[op.output].shape
    walk.set(op, None if scale is None else [reshaped(term, old, new) for term in scale])


def reshaped(term: Ids, old: tuple[int, ...], new: tuple[int, ...]) -> Ids:
    """A term after a reshape of its value from shape `old` to shape `new`, as small as it can be."""
    full, shape, i, j = list(term.shape), list(new), 0, 0
    while i < len(old) or j < len(new):
        start, begin = i, j
        left, right = 1, 1
        while True:
            if left <= right and i < len(old):
                left, i = left * old[i], i + 1
            elif j < len(new):
                right, j = right * new[j], j + 1
            else:
                break
            if left == right and (left > 1 or (i == len(old) and j == len(new))):
                break
        if any(term.shape[d] > 1 for d in range(start, i)):
            full[start:i] = old[start:i]
        else:
            shape[begin:j] = [1] * (j - begin)
    opened = np.broadcast_to(term, full).reshape(shape)
    for axis in range(opened.ndim):  # do not depend on what does not matter
        first = np.take(opened, [0], axis)
        if opened.shape[axis] > 1 and (opened == first).all():
            opened = first
    return opened


@rule("aten.expand")
def expand(walk: ScaleWalk, op: Op) -> None:
    """Broadcasting."""
    shape = walk.program.values[op.output].shape
    walk.set(op, None if walk.scale(op.arguments[0]) is None else walk.lift(op.arguments[0], shape))


@rule("aten.unsqueeze")
def unsqueeze(walk: ScaleWalk, op: Op) -> None:
    """A new dimension."""
    scale = walk.scale(op.arguments[0])
    axis = op.arguments[1] % (len(walk.shape(op.arguments[0])) + 1)
    walk.set(op, None if scale is None else [np.expand_dims(term, axis) for term in scale])


@rule("aten.squeeze")
def squeeze(walk: ScaleWalk, op: Op) -> None:
    """Dimensions of size 1 removed."""
    scale, shape = walk.scale(op.arguments[0]), walk.shape(op.arguments[0])
    axes = op.argument(1, "dim", tuple(range(len(shape))))
    axes = (axes,) if isinstance(axes, int) else axes
    gone = tuple(axis % len(shape) for axis in axes if shape[axis] == 1)
    walk.set(op, None if scale is None else [term.squeeze(gone) for term in scale])


def taken(term: Ids, axis: int, index: Any) -> Ids:
    """A term at some indices of one dimension."""
    return term[(slice(None),) * axis + (index,)] if term.shape[axis] > 1 else term


@rule("aten.slice")
def slice_(walk: ScaleWalk, op: Op) -> None:
    """A range of one dimension."""
    scale = walk.scale(op.arguments[0])
    axis = op.argument(1, "dim", 0) % len(walk.shape(op.arguments[0]))
    index = slice(op.argument(2, "start"), op.argument(3, "end"), op.argument(4, "step", 1))
    walk.set(op, None if scale is None else [taken(term, axis, index) for term in scale])


@rule("aten.select")
def select(walk: ScaleWalk, op: Op) -> None:
    """One index of a dimension."""
    scale, shape = walk.scale(op.arguments[0]), walk.shape(op.arguments[0])
    axis = op.arguments[1] % len(shape)
    index = op.arguments[2] % shape[axis]
    walk.set(op, None if scale is None else [taken(t, axis, slice(index, index + 1)).squeeze(axis) for t in scale])


@rule("aten.split_with_sizes", "aten.split", "aten.unbind", "aten.chunk")
def split(walk: ScaleWalk, op: Op) -> None:
    """Several ranges of one dimension."""
    scale, shape = walk.scale(op.arguments[0]), walk.shape(op.arguments[0])
    single = op.name == "aten.unbind"
    axis = op.argument(1 if single else 2, "dim", 0) % len(shape)
    sizes = [1] * shape[axis] if single else op.arguments[1]
    if isinstance(sizes, int):
        sizes = [min(sizes, shape[axis] - at) for at in range(0, shape[axis], sizes)]
    end = 0
    for index, size in enumerate(sizes):
        end += size
        piece = None if scale is None else [taken(term, axis, slice(end - size, end)) for term in scale]
        if single and piece is not None:
            piece = [term.squeeze(axis) for term in piece]
        walk.set(op, piece, index)


@rule("aten.cat")
def cat(walk: ScaleWalk, op: Op) -> None:
    """Pieces side by side keep their own scales."""
    shape = walk.program.values[op.output].shape
    axis = op.argument(1, "dim", 0) % len(shape)
    pieces = [(walk.scale(t), walk.shape(t)[axis]) for t in op.arguments[0] if 0 not in walk.shape(t)]
    if all(scale is None for scale, _ in pieces):
        walk.set(op, None)
        return
    patterns = {
        tuple(size > 1 and d != axis for d, size in enumerate(term.shape))
        for scale, _ in pieces
        for term in scale or []
    }
    out = []
    for pattern in sorted(patterns):
        free = tuple(n if p else 1 for n, p in zip(shape, pattern, strict=True))
        parts = []
        for scale, size in pieces:
            full = tuple(size if d == axis else n for d, n in enumerate(free))
            own = [
                (1, np.broadcast_to(term, full)) for term in scale or []
                if tuple(n > 1 and d != axis for d, n in enumerate(term.shape)) == pattern
            ]  # fmt: skip
            if scale is None:
                parts.append(walk.system.fresh(full))
            else:
                parts.append(walk.system.combination(*own) if own else np.zeros(full, dtype=np.int64))
        joined = np.concatenate([np.asarray(part) for part in parts], axis)
        first = np.take(joined, [0], axis)
        out.append(first if (joined == first).all() else joined)
    walk.set(op, out)


@rule("aten.flip", "aten.roll", "aten.repeat")
def rearrange(walk: ScaleWalk, op: Op) -> None:
    """Entries in another order, or several times: index arrays tell where each came from."""
    scale, shape = walk.scale(op.arguments[0]), walk.shape(op.arguments[0])
    if scale is None:
        walk.set(op, None)
        return
    new = walk.program.values[op.output].shape
    lifted = [term.reshape((1,) * (len(new) - len(shape)) + term.shape) for term in scale]
    shape = (1,) * (len(new) - len(shape)) + shape
    orders = [np.arange(size) for size in shape]
    if op.name == "aten.flip":
        for axis in op.arguments[1]:
            orders[axis] = orders[axis][::-1]
    elif op.name == "aten.repeat":
        orders = [np.tile(order, times) for order, times in zip(orders, op.arguments[1], strict=True)]
    else:
        for shift, axis in zip(op.arguments[1], op.argument(2, "dims", ()), strict=True):
            orders[axis] = np.roll(orders[axis], shift)
    for axis, order in enumerate(orders):
        lifted = [taken(term, axis, order) for term in lifted]
    walk.set(op, lifted)


@rule("aten.constant_pad_nd")
def constant_pad(walk: ScaleWalk, op: Op) -> None:
    """Zeros around a value: the scale must not depend on the padded dimensions."""
    old, new = walk.shape(op.arguments[0]), walk.program.values[op.output].shape
    terms = walk.terms(op.arguments[0])
    if op.argument(2, "value", 0):
        walk.forbid(terms)
        terms = []
    padded = [d for d, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    walk.set(op, None if walk.scale(op.arguments[0]) is None else walk.forbid_along(terms, padded))


@rule("aten.full", "aten.full_like", "aten.zeros", "aten.zeros_like", "aten.new_zeros", "aten.new_full", "aten.empty")
def filled(walk: ScaleWalk, op: Op) -> None:
    """One number everywhere; zeros agree with any scale."""
    zero = "zeros" in op.name or (op.name.startswith(("aten.full", "aten.new_full")) and op.arguments[-1] == 0)
    walk.set(op, None if zero else [])


# --- indexing -------------------------------------------------------------------------------------------------------


@rule("aten.index")
def index(walk: ScaleWalk, op: Op) -> None:
    """Entries at computed places: the scale must not depend on the indexed dimensions."""
    scale, indices = walk.scale(op.arguments[0]), op.arguments[1]
    used = [d for d, entry in enumerate(indices) if entry is not None]
    if scale is None:
        walk.set(op, None)
        return
    new_rank = len(walk.program.values[op.output].shape)
    kept = walk.forbid_along(scale, used)
    inserted = new_rank - (len(walk.shape(op.arguments[0])) - len(used))
    if used != list(range(used[0], used[0] + len(used))):
        walk.forbid(kept)
        kept = []
    out = []
    for term in kept:
        sizes = [size for d, size in enumerate(term.shape) if d not in used]
        out.append(term.reshape(*sizes[: used[0]], *[1] * inserted, *sizes[used[0] :]))
    walk.set(op, out)


@rule("aten.index_select", "aten.gather", "aten.cumsum", "aten.tril", "aten.triu")
def ordered(walk: ScaleWalk, op: Op) -> None:
    """Linear along an ordered dimension."""
    rank = len(walk.shape(op.arguments[0]))
    axes = range(rank - 2, rank) if "tri" in op.name else [op.arguments[1] % rank]
    scale = walk.scale(op.arguments[0])
    walk.set(op, None if scale is None else walk.forbid_along(scale, list(axes)))


@rule(
    "aten.scatter_add", "aten.scatter", "aten.index_add", "aten.index_copy", "aten.select_scatter", "aten.slice_scatter"
)
def scatter(walk: ScaleWalk, op: Op) -> None:
    """Writing into a value at computed places: both sides are scaled alike, independent of the place."""
    into = "_scatter" in op.name and op.name not in ("aten.index_scatter",)
    base, source = op.arguments[0], op.arguments[1 if into else 3]
    rank = len(walk.shape(base))
    axis = (op.argument(2, "dim", 0) if into else op.arguments[1]) % rank
    terms = walk.terms(source) if isinstance(source, Reference) else []
    if op.name == "aten.select_scatter":
        terms = [np.expand_dims(term, axis) for term in terms]
    written = walk.forbid_along(terms, [axis])
    kept = walk.scale(base)
    kept = None if kept is None else walk.forbid_along(kept, [axis])
    walk.set(op, walk.equate(kept, written if walk.scale(source) is not None else None))


@rule("aten.index_put")
def index_put(walk: ScaleWalk, op: Op) -> None:
    """Writing rows at indices."""
    base, indices, source = op.arguments[:3]
    rank, used = len(walk.shape(base)), [d for d, entry in enumerate(op.arguments[1]) if entry is not None]
    tail = rank - len(indices)
    if used != list(range(len(indices))):
        walk.forbid([*walk.terms(base), *walk.terms(source)])
        walk.set(op, [])
        return
    own = walk.terms(source)
    lead = len(walk.shape(source)) - tail
    kept = walk.forbid_along(own, range(max(lead, 0)))
    rows = [term.reshape((1,) * (rank - tail) + term.shape[max(lead, 0) :]) for term in kept]
    into = walk.scale(base)
    into = None if into is None else walk.forbid_along(into, used)
    walk.set(op, walk.equate(into, rows if walk.scale(source) is not None else None))


# --- complex numbers ------------------------------------------------------------------------------------------------


@rule("aten.conj", "aten._conj", "aten.resolve_conj", "aten._conj_physical")
def conjugate(walk: ScaleWalk, op: Op) -> None:
    """Phases turn round."""
    scale = walk.scale(op.arguments[0])
    turned = walk.kind == "phase" and op.name != "aten.resolve_conj" and scale is not None
    walk.set(op, power(walk, scale or [], -1) if turned else scale)


@rule("aten.view_as_real", "aten.real", "aten.imag")
def real_parts(walk: ScaleWalk, op: Op) -> None:
    """Real and imaginary parts fix the phase, nothing else."""
    terms = walk.terms(op.arguments[0])
    if walk.kind == "phase":
        walk.forbid(terms)
        terms = []
    walk.set(op, [term[..., None] for term in terms] if op.name == "aten.view_as_real" else terms)


@rule("aten.view_as_complex")
def view_as_complex(walk: ScaleWalk, op: Op) -> None:
    """Pairs of numbers as complex ones."""
    rank = len(walk.shape(op.arguments[0]))
    kept = walk.forbid_along(walk.terms(op.arguments[0]), [rank - 1])
    walk.set(op, [term[..., 0] for term in kept])


@rule("aten._fft_r2c", "aten._fft_c2r", "aten._fft_c2c")
def fourier(walk: ScaleWalk, op: Op) -> None:
    """Linear along the transformed dimensions."""
    rank = len(walk.shape(op.arguments[0]))
    terms = walk.forbid_along(walk.terms(op.arguments[0]), [axis % rank for axis in op.arguments[1]])
    if walk.kind == "phase" and op.name == "aten._fft_c2r":
        walk.forbid(terms)
        terms = []
    walk.set(op, terms)
