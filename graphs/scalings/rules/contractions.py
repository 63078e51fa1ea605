"""Operators that sum products: matrix products, convolutions, embeddings, attention."""

import numpy as np

from graphs.program import Op
from graphs.scalings.system import Ids
from graphs.scalings.walk import Scale, ScaleWalk, Terms, rule


def matrix_product(walk: ScaleWalk, left: Scale, right: Scale) -> Scale:
    """Scale of `left @ right` of equal rank."""
    if left is None or right is None:
        return None
    rank = left[0].ndim if left else right[0].ndim if right else 0
    walk.separate([*left, *right], range(rank - 2))  # batches of different matrices
    a = [term[..., None] for term in left]  # [*, m, k, 1]
    b = [term[..., None, :, :] for term in right]  # [*, 1, k, n]
    kept = walk.contract([*a, *b], [rank - 1], open_=True)
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
