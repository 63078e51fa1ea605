"""Pointwise operators: activations, powers, sums and products."""

from typing import Any

from graphs.program import Op, Reference
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
    arguments, mask = list(op.arguments), None
    if op.name in ("aten.where", "aten.masked_fill"):
        mask = arguments.pop(0 if op.name == "aten.where" else 1)
        walk.forbid(walk.terms(mask))
    else:
        arguments = arguments[:2]
    if walk.kind == "sign" and op.name in ("aten.maximum", "aten.minimum"):
        for argument in arguments:
            walk.forbid(walk.terms(argument))
    shape = walk.program.values[op.output].shape
    total: Scale = None
    for argument in arguments:
        if walk.scale(argument) is not None:
            if mask is not None and isinstance(argument, Reference):
                walk.separate(walk.lift(argument, shape), _varies(walk, mask, shape))
            total = walk.equate(total, walk.lift(argument, shape) if isinstance(argument, Reference) else [])
    walk.set(op, total)


@rule("aten.gt", "aten.ge", "aten.lt", "aten.le", "aten.eq", "aten.ne")
def comparison(walk: ScaleWalk, op: Op) -> None:
    """Compared with zero: the answer does not see positive scales (PReLU asks x > 0)."""
    left, right = op.arguments[:2]
    if walk.kind != "positive" or isinstance(right, Reference) or right != 0:
        for argument in (left, right):
            walk.forbid(walk.terms(argument))
    walk.set(op, [])


@rule("aten.exp")
def exponential(walk: ScaleWalk, op: Op) -> None:
    """A parameter that is nothing but exponentiated carries its scale as a summand; else nothing may be scaled."""
    walk.forbid(walk.terms(op.arguments[0]))
    value = op.inputs[0]
    name = next((name for name, own in walk.program.tensors.items() if own == value), None)
    users = [walk.program.ops[i].name for i in walk.program.users()[value]]
    if walk.kind != "positive" or name is None or set(users) != {"aten.exp"}:
        walk.set(op, [])
        return
    if name not in walk.additive:
        walk.additive[name] = walk.unknowns(value)
    walk.set(op, walk.additive[name])


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
    walk.separate(a, _varies(walk, right, shape))
    walk.separate(b, _varies(walk, left, shape))
    if walk.mixes and op.name == "aten.div":
        walk.forbid(b)
    walk.set(op, walk.collect([*a, *b], [1] * len(a) + [1 if op.name == "aten.mul" else -1] * len(b)))


def _varies(walk: ScaleWalk, argument: Any, shape: tuple[int, ...]) -> list[int]:
    """The dimensions of a broadcast shape along which an operand varies."""
    own = walk.shape(argument)
    return [d + len(shape) - len(own) for d, size in enumerate(own) if size > 1]
