"""Elementwise operators: dimensions that meet are tied; broadcast dimensions take what the other operand has."""

from graphs.algebra import Labels
from graphs.labels import Walk
from graphs.program import Op
from graphs.rules import rule

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def broadcast(walk: Walk, operands: list[Labels]) -> Labels:
    """Labels of an elementwise function of broadcast operands."""
    rank = max(map(len, operands), default=0)
    out = LETTERS[:rank]
    return walk.algebra.contract([(labels, out[rank - len(labels) :]) for labels in operands], out)


@rule("pointwise")
def pointwise(walk: Walk, op: Op) -> Labels:
    """Any elementwise operator: tie what meets."""
    return broadcast(walk, [walk.value_labels(value) for value in op.inputs])


@rule(
    "aten.clone", "aten.alias", "aten.detach", "aten._to_copy", "aten.lift_fresh_copy", "aten.contiguous",
    "prims.convert_element_type", "aten.conj", "aten._conj", "aten._conj_physical", "aten.resolve_conj",
    "aten.resolve_neg", "aten.real", "aten.imag", "aten.bernoulli_like", "aten.native_dropout",
)  # fmt: skip
def identity(walk: Walk, op: Op) -> Labels:
    """A copy, cast, or elementwise function of one tensor: the labels stay."""
    return walk.value_labels(op.inputs[0])


@rule("aten.complex", "aten.polar", "aten.where", "aten.masked_fill", "aten.copy", "aten.addcmul", "aten.addcdiv")
def several(walk: Walk, op: Op) -> Labels:
    """Elementwise in all tensor operands: tie what meets."""
    return broadcast(walk, [walk.value_labels(value) for value in op.inputs])


@rule("aten.view_as_real")
def view_as_real(walk: Walk, op: Op) -> Labels:
    """A last dimension (real, imaginary) appears; its two places are fixed."""
    labels = walk.value_labels(op.inputs[0])
    rank = len(labels) + 1
    last = walk.algebra.positions(2, rank - 1, rank, "complex part")
    return (*(None if array is None else array[..., None] for array in labels), last)


@rule("aten.view_as_complex")
def view_as_complex(walk: Walk, op: Op) -> Labels:
    """The last dimension (real, imaginary) is fixed and goes."""
    labels = walk.value_labels(op.inputs[0])
    walk.algebra.pin(labels[-1], len(labels) - 1, "complex part")
    return walk.algebra.reduce(labels, [len(labels) - 1], keep=False)


@rule(
    "aten.full_like", "aten.zeros_like", "aten.ones_like", "aten.empty_like", "aten.new_zeros", "aten.new_ones",
    "aten.new_full", "aten.new_empty", "aten.full", "aten.zeros", "aten.ones", "aten.empty", "aten.empty_strided",
    "aten.new_empty_strided", "aten.scalar_tensor",
)  # fmt: skip
def constant(walk: Walk, op: Op) -> Labels:
    """One number everywhere: every dimension is free."""
    return (None,) * len(walk.program.values[op.output].shape)
