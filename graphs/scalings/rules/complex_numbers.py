"""Complex numbers and Fourier transforms."""

from graphs.program import Op
from graphs.scalings.rules.pointwise import power
from graphs.scalings.walk import ScaleWalk, rule


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
