"""Which dimensions of a parameter may carry labels that depend on each other.

The permutation of one dimension of a parameter may differ along another (each head its own, each group its own) only
if no op sums over a dimension while using the other as a plain matrix axis. Labels for such *joint* dimensions cost
one per entry instead of one per index, so they are given only where some op could use them.
"""

from collections.abc import Sequence
from math import prod

from graphs.program import Op, Program, Reference

LIMIT = 300_000  # entries of a parameter beyond which its dimensions are labelled separately
_TRANSPARENT = {
    "aten.permute", "aten.transpose", "aten.t", "aten.clone", "aten.alias", "aten.detach", "aten._to_copy",
    "aten.unsqueeze", "aten.squeeze", "aten.view", "aten.expand", "aten._unsafe_view", "aten.reshape",
}  # fmt: skip
_MATRIX = {"aten.mm": 2, "aten.addmm": 2, "aten.mv": 2, "aten.addmv": 2, "aten.bmm": 3, "aten.baddbmm": 3}


def joint_dimensions(program: Program) -> dict[int, tuple[int, ...]]:
    """For every parameter whose dimensions are to be labelled jointly, which ones (by value id)."""
    users = program.users()
    found = {}
    for value in program.tensors.values():
        shape = program.values[value].shape
        long = tuple(axis for axis, size in enumerate(shape) if size > 1)
        if len(long) < 2 or not users[value]:
            continue
        uses = _uses(program, users, value)
        groups = {use for use in uses if use is not None}
        joint = groups.pop() if len(groups) == 1 and None not in uses else ()
        joint = long if joint == ("all",) else tuple(axis for axis in joint if axis in long)
        if len(joint) > 1 and prod(shape[axis] for axis in joint) <= LIMIT:
            found[value] = joint
    return found


def _uses(program: Program, users: Sequence[Sequence[int]], start: int) -> set[tuple | None]:
    """How a parameter is used: None for a plain matrix, else the dimensions an op could relate (("all",): any)."""
    shape = program.values[start].shape
    found: set[tuple | None] = set()
    queue = [(start, tuple(range(len(shape))))]  # for every dimension of the value the parameter's, or -1
    while queue:
        value, origin = queue.pop()
        if value in program.outputs:
            found.add(("all",))
        for index in users[value]:
            op = program.ops[index]
            moved = _carry(program, op, value, origin) if op.name in _TRANSPARENT else None
            if moved is not None:
                queue.append((op.output, moved))
            else:
                found.add(_final(op, value, origin))
    return found


def _final(op: Op, value: int, origin: tuple[int, ...]) -> tuple | None:
    """The use an op makes of a parameter."""
    if op.name in _MATRIX and len(origin) == _MATRIX[op.name]:
        return None if len(origin) == 2 or origin[0] < 0 else ("all",)
    if op.name == "aten.embedding":
        return None
    if op.name == "aten.convolution":
        groups = op.argument(8, "groups", 1)
        return None if groups == 1 else (0, 1)
    return ("all",)


def _carry(program: Program, op: Op, value: int, origin: tuple[int, ...]) -> tuple[int, ...] | None:
    """The parameter's dimension of every dimension of the output, None where dimensions are split or merged."""
    before = program.values[value].shape
    after = program.values[op.output].shape
    if op.arguments[0] != Reference(value):
        return None
    if op.name in {"aten.clone", "aten.alias", "aten.detach", "aten._to_copy"}:
        return origin
    if op.name == "aten.permute":
        return tuple(origin[k] for k in op.arguments[1])
    if op.name == "aten.t":
        return origin[::-1]
    if op.name == "aten.transpose":
        order = list(range(len(before)))
        i, j = op.arguments[1], op.arguments[2]
        order[i], order[j] = order[j], order[i]
        return tuple(origin[k] for k in order)
    if op.name == "aten.expand":
        padded = (-1,) * (len(after) - len(before)) + origin
        sizes = (1,) * (len(after) - len(before)) + before
        return tuple(dim if size == new else -1 for dim, size, new in zip(padded, sizes, after, strict=True))
    long = [(size, dim) for size, dim in zip(before, origin, strict=True) if size > 1]
    if [size for size, _ in long] != [size for size in after if size > 1]:
        return None
    rest = iter(dim for _, dim in long)
    return tuple(next(rest) if size > 1 else -1 for size in after)
