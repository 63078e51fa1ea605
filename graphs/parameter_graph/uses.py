"""How a program uses its parameters: which operator reads a tensor first, as which argument, and which of the tensor's
dimensions that operator sums over.

A parameter is followed through every operator that only moves entries or combines parameters entry by entry, to the
first that contracts it or brings it together with data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from graphs.parameter_graph.vocabulary import op_family
from graphs.program import Op, Program, Reference

Dims = frozenset[int]
Origin = tuple[Dims, ...]  # for every dimension of a value the parameter's dimensions that vary along it
_NONE: Dims = frozenset()


@dataclass(frozen=True)
class Use:
    """How an operator reads a parameter.

    Args:
        op: index of the operator in the program, −1 if nothing reads the parameter.
        argument: the place among its tensor arguments.
        family: of the operator, a name in `EDGE_OPS`.
        kind: a name in `EDGE_KINDS`.
        contracted: dimensions of the parameter that are summed over (or looked up).
        produced: dimensions that are dimensions of the result.
        other: value id of what it is contracted with, None if it is not contracted.
        output: value id of the result, −1 if there is none.
        broadcast: whether a tensor without long dimensions is spread over a longer one.
        reads: number of operators that read the parameter in this way.
    """

    op: int
    argument: int
    family: str
    kind: str
    contracted: Dims
    produced: Dims
    other: int | None = None
    output: int = -1
    broadcast: bool = False
    reads: int = 1

    @property
    def contracts(self) -> bool:
        """Whether the operator sums over, or looks up, one of the parameter's dimensions."""
        return self.other is not None


def find_uses(program: Program) -> dict[int, Use]:
    """The use of every parameter and state buffer, by value id: the first that sees most of its dimensions."""
    finder = _Finder(program)
    return {value: finder.use(value) for value in dict.fromkeys(program.tensors.values())}


def all_uses(program: Program) -> dict[int, tuple[Use, ...]]:
    """Every use of every parameter and state buffer, by value id: a tied tensor has several."""
    finder = _Finder(program)
    return {value: tuple(finder.uses(value).values()) for value in dict.fromkeys(program.tensors.values())}


class _Finder:
    """Follows parameters through a program."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.users = program.users()
        self.live = program.depends_on_inputs()

    def uses(self, start: int) -> dict[tuple[int, int], Use]:
        """The uses of a tensor by operator and argument."""
        shape = self.program.values[start].shape
        found: dict[tuple[int, int], Use] = {}
        queue: list[tuple[int, Origin]] = [(start, tuple(frozenset({k}) for k in range(len(shape))))]
        seen = {start}
        while queue:
            value, origin = queue.pop()
            for index in self.users[value]:
                op = self.program.ops[index]
                for output, moved in self.through(op, value, origin):
                    if output not in seen:
                        seen.add(output)
                        queue.append((output, moved))
                if not self.transparent(op, value):
                    for argument, entry in enumerate((*op.arguments, *op.keywords.values())):
                        if _holds(entry, value):
                            found[index, argument] = self.consume(op, argument, value, origin)
        return found

    def use(self, start: int) -> Use:
        """The use that sees most of a tensor's dimensions."""
        found = self.uses(start)
        if not found:
            return Use(-1, 0, "none", "other", _NONE, frozenset(range(len(self.program.values[start].shape))))
        seen_dims = {key: len(use.contracted | use.produced) for key, use in found.items()}
        best = found[min(found, key=lambda key: (-seen_dims[key], key))]
        reads = sum(use.family == best.family and use.argument == best.argument for use in found.values())
        return Use(**{**best.__dict__, "reads": reads})

    def transparent(self, op: Op, value: int) -> bool:
        """Whether a parameter's entries pass an operator one by one, still as parameters."""
        family = op_family(op)
        output = next((output for output in op.outputs if output is not None), None)
        if output is None or any(self.live[entry] for entry in op.inputs):
            return False
        if family in ("shape", "reduction"):
            return True
        if family == "index":
            return all(entry in self.program.constants for entry in op.inputs[1:])
        same = self.program.values[output].shape == self.program.values[value].shape
        return family in ("add", "multiply", "pointwise") and same

    def through(self, op: Op, value: int, origin: Origin) -> list[tuple[int, Origin]]:
        """Outputs of a transparent operator with the parameter's dimensions along each of theirs."""
        if not self.transparent(op, value):
            return []
        before = self.program.values[value].shape
        outputs = [output for output in op.outputs if output is not None]
        return [(output, _carry(op, before, self.program.values[output].shape, origin)) for output in outputs]

    def consume(self, op: Op, argument: int, value: int, origin: Origin) -> Use:
        """The use an operator makes of a parameter."""
        family, name = op_family(op), op.name
        output = next((output for output in op.outputs if output is not None), -1)
        axes, kind = _contracted_axes(op, family, argument, len(origin))
        if axes is not None:
            summed, produced = axes
            contracted = frozenset().union(*(origin[k] for k in summed))
            kept = frozenset().union(*(origin[k] for k in produced)) - contracted
            others = [entry for entry in op.inputs if entry != value]
            position = {"aten.addmm": 3 - argument, "aten.baddbmm": 3 - argument}.get(name)
            if position is not None and isinstance(op.arguments[position], Reference):
                others = [op.arguments[position].value]
            if family == "batched_matmul" and not origin[0]:  # the same matrix for the whole batch
                family, kind = "matmul", "linear"
            other = others[0] if others else value
            return Use(op.index, argument, family, kind, contracted, kept, other, output)
        kept = frozenset().union(*origin)
        return Use(op.index, argument, family, kind, _NONE, kept, None, output, self.spread(value, output))

    def spread(self, value: int, output: int) -> bool:
        """Whether a tensor whose dimensions all have size 1 meets a longer last dimension."""
        shape = self.program.values[value].shape
        after = self.program.values[output].shape if output >= 0 else ()
        return prod(shape) == 1 and (not shape or not after or after[-1] > 1)


def _holds(entry: object, value: int) -> bool:
    return entry == Reference(value) or (isinstance(entry, tuple) and any(_holds(part, value) for part in entry))


def _contracted_axes(
    op: Op, family: str, argument: int, rank: int
) -> tuple[tuple[tuple[int, ...], tuple[int, ...]] | None, str]:
    """(Summed, produced) dimensions of an argument, None for an argument that is not contracted; and its kind."""
    first = 1 if op.name in ("aten.addmm", "aten.baddbmm", "aten.addmv") else 0
    if family in ("matmul", "batched_matmul") and op.name not in ("aten.linear", "aten._trilinear"):
        kind = "linear" if family == "matmul" else "contraction"
        if argument == first:
            return ((rank - 1,), (rank - 2,) if rank > 1 else ()), kind
        if argument == first + 1:
            return ((max(rank - 2, 0),), (rank - 1,) if rank > 1 else ()), kind
        return None, "bias"
    if op.name == "aten.linear" and argument == 1:
        return ((1,), (0,)), "linear"
    if family == "convolution" and argument == 1:
        transposed = bool(op.argument(6, "transposed", False))
        return ((0,), (1,)) if transposed else ((1,), (0,)), "convolution"
    if family == "distance":
        return ((rank - 1,), (rank - 2,)), "contraction"
    if family == "embedding" and argument == 0:
        return ((0,), tuple(range(1, rank))), "embedding"
    if family == "index" and argument == 0:
        axes = _indexed_axes(op)
        return (axes, tuple(k for k in range(rank) if k not in axes)), "embedding"
    return None, _plain_kind(family, argument)


def _indexed_axes(op: Op) -> tuple[int, ...]:
    if op.name in ("aten.index", "aten._unsafe_index", "aten.index_put"):
        return tuple(k for k, entry in enumerate(op.arguments[1]) if entry is not None)
    return (op.arguments[1],)


def _plain_kind(family: str, argument: int) -> str:
    """The kind of an argument that is not contracted."""
    norms = {"layer_norm": (2, 3), "rms_norm": (2, -1), "group_norm": (1, 2), "batch_norm": (1, 2)}
    if family in norms and argument in norms[family]:
        return "gain" if argument == norms[family][0] else "bias"
    if family == "batch_norm" and argument in (3, 4):
        return "mean" if argument == 3 else "variance"
    if family in ("add", "matmul", "batched_matmul") or (family == "convolution" and argument == 2):
        return "bias"
    return "gain" if family == "multiply" else "other"


def _carry(op: Op, before: Sequence[int], after: Sequence[int], origin: Origin) -> Origin:
    """The parameter's dimensions along every dimension of an operator's result."""
    name, rank = op.name, len(before)
    if name == "aten.permute":
        return tuple(origin[k] for k in op.arguments[1])
    if name in ("aten.transpose", "aten.t"):
        order = list(range(rank))
        if rank > 1:
            i, j = (op.arguments[1], op.arguments[2]) if name == "aten.transpose" else (0, 1)
            order[i], order[j] = order[j], order[i]
        return tuple(origin[k] for k in order)
    if name in ("aten.select", "aten.unbind"):
        axis = op.argument(1, "dim", 0) % rank
        return (*origin[:axis], *origin[axis + 1 :])
    if name == "aten.view_as_complex":
        return origin[:-1]
    if name == "aten.view_as_real":
        return (*origin, _NONE)
    if op_family(op) == "reduction" and len(after) != rank:
        axes = op.argument(1, "dim", None)
        axes = range(rank) if axes is None else [axes] if isinstance(axes, int) else axes
        gone = {axis % rank for axis in axes}
        return tuple(dims for k, dims in enumerate(origin) if k not in gone)
    if prod(before) == prod(after) and name != "aten.expand":
        return _reshaped(before, after, origin)
    padded = (_NONE,) * (len(after) - rank) + origin  # expand, slice, cat, pad, gather: dimension by dimension
    return padded[len(padded) - len(after) :]


def _reshaped(before: Sequence[int], after: Sequence[int], origin: Origin) -> Origin:
    """A row-major reshape: a dimension varies with all those whose digits of the flat index it shares."""
    if tuple(before) == tuple(after):
        return origin
    old = [(prod(before[k + 1 :]), prod(before[k:])) for k in range(len(before))]
    new = [(prod(after[k + 1 :]), prod(after[k:])) for k in range(len(after))]
    return tuple(
        frozenset().union(*(origin[k] for k, (a, b) in enumerate(old) if max(a, low) < min(b, high)))
        for low, high in new
    )
