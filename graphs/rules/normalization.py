"""Operators that couple a whole row of entries and treat them alike: normalizations and softmax."""

from graphs.algebra import Labels
from graphs.labels import Walk
from graphs.program import Op, Reference
from graphs.rules import rule

LETTERS = "abcdefghijklm"


def affine(walk: Walk, labels: Labels, arguments: tuple, spec: str) -> Labels:
    """Tie per-feature tensors (weight, bias, running statistics) to the dimensions that `spec` names."""
    letters = LETTERS[: len(labels)]
    operands = [(labels, letters)]
    operands += [(walk.labels(argument), spec) for argument in arguments if isinstance(argument, Reference)]
    return walk.algebra.contract(operands, letters)


@rule("aten.native_layer_norm", "aten._fused_rms_norm", "aten.rms_norm", "aten.layer_norm")
def layer_norm(walk: Walk, op: Op) -> list[Labels | None]:
    """Normalize over the last dimensions: every row moves as one."""
    labels, count = walk.labels(op.arguments[0]), len(op.arguments[1])
    axes = range(len(labels) - count, len(labels))
    rows = walk.algebra.normalize(labels, axes)
    out = affine(walk, rows, op.arguments[2:4], LETTERS[len(labels) - count : len(labels)])
    statistics = walk.algebra.reduce(labels, axes, keep=True)
    both: list[Labels | None] = [statistics, statistics]
    return [out, *both[: len(op.outputs) - 1]]


@rule(
    "aten._native_batch_norm_legit_no_training", "aten._native_batch_norm_legit", "aten.native_batch_norm",
    "aten._batch_norm_no_update", "aten._batch_norm_with_update", "aten.cudnn_batch_norm",
)  # fmt: skip
def batch_norm(walk: Walk, op: Op) -> list[Labels | None]:
    """Normalize every channel: scale, shift and running statistics move with it."""
    labels = walk.labels(op.arguments[0])
    if "no_training" not in op.name and "no_update" not in op.name:
        labels = walk.algebra.normalize(labels, [k for k in range(len(labels)) if k != 1])
    out = affine(walk, labels, op.arguments[1:5], LETTERS[1])
    channel = walk.algebra.reduce(out, [k for k in range(len(labels)) if k != 1], keep=False)
    empty = [
        channel if shape != (0,) else (None,) for shape in (walk.out_shape(op, k) for k in range(1, len(op.outputs)))
    ]
    return [out, *empty]


@rule("aten.native_group_norm")
def group_norm(walk: Walk, op: Op) -> list[Labels | None]:
    """Normalize over blocks of channels: a block moves as one, its channels within it."""
    algebra, x = walk.algebra, op.arguments[0]
    labels, shape, groups = walk.labels(x), walk.shape(x), int(op.arguments[6])
    split = (shape[0], groups, shape[1] // groups, *shape[2:])
    blocks = algebra.reshape(labels, shape, split)
    rows = algebra.normalize(blocks, range(2, len(split)))
    statistics = algebra.reduce(rows, range(2, len(split)), keep=False)
    batch = algebra.collapse(labels[0], range(1, len(labels)))
    out = affine(walk, (batch, *labels[1:]), op.arguments[1:3], LETTERS[1])
    return [out, statistics, statistics]


@rule("aten._softmax", "aten._log_softmax", "aten.softmax", "aten.log_softmax", "aten._safe_softmax")
def softmax(walk: Walk, op: Op) -> Labels:
    """Softmax: couples one dimension."""
    labels = walk.labels(op.arguments[0])
    return walk.algebra.normalize(labels, [op.arguments[1] % len(labels)]) if labels else labels
