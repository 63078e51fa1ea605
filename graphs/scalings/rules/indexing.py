"""Operators that read and write at computed places."""

import numpy as np

from graphs.program import Op, Reference
from graphs.scalings.walk import ScaleWalk, rule


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
