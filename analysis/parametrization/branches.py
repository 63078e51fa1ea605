"""Residual branches of a program, and the tensors that set their scale.

"Tensor Programs VI: Feature Learning in Infinite-Depth Neural Networks" (Yang, Yu, Zhu and Hayou, 2023): x_l = x_{l-1} +
L^{-α} f_l(x_{l-1}) with α = 1/2 learns features at every depth. The multiplier is folded into the tensors on which f_l
depends linearly.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from graphs.parameter_graph.vocabulary import op_family
from graphs.program import Op, Program, Reference
from modelzoo.errors import UserError

ROW = "S071"
HOMOGENEOUS = frozenset({"aten.relu", "aten.leaky_relu", "aten.abs", "aten.neg", "aten.native_dropout"})
AVERAGES = frozenset({"aten.sum", "aten.mean"})
NORMS = frozenset({"layer_norm", "batch_norm", "group_norm", "rms_norm"})


@dataclass(frozen=True)
class Branch:
    """One residual branch, x ← x + f(x).

    Args:
        module: path of the module that adds.
        inner: parameters that f reads.
        last: those of them whose common factor is a factor of f, None if there are none.
        stream: value id of x.
        result: value id of x + f(x).
        ending: the operator that makes f(x).
    """

    module: str
    inner: frozenset[str]
    last: frozenset[str] | None
    stream: int
    result: int
    ending: str


def residual_branches(program: Program) -> tuple[Branch, ...]:
    """The residual branches of a program, in order; additions whose short cut has parameters are none."""
    walk = _Walk(program)
    return tuple(branch for op in program.ops for branch in walk.branches(op))


def scalable_branches(program: Program) -> tuple[Branch, ...]:
    """The residual branches, each of which some tensors scale.

    Raises:
        UserError: a branch ends in a nonlinearity that no tensor can scale, or two branches share a tensor.
    """
    found = residual_branches(program)
    owner: dict[str, str] = {}
    for branch in found:
        if branch.last is None:
            raise UserError(
                f"the residual branch in {branch.module or 'the root module'!r} ends in {branch.ending!r}, whose "
                f"result no tensor scales; end the branch with a linear map, or take 'mup'."
            )
        for name in branch.inner:
            if name in owner:
                raise UserError(
                    f"tensor {name!r} is shared by the residual branches of {owner[name]!r} and {branch.module!r}, so "
                    f"depth scaling cannot tell them apart; take 'mup'."
                )
            owner[name] = branch.module
    return found


def scaling_tensors(program: Program, value: int) -> frozenset[str] | None:
    """Parameters whose common factor is a factor of a value of a program; None if there are none."""
    walk = _Walk(program)
    return walk.scaling(value, {each.id for each in program.values if walk.live[each.id]})


class _Walk:
    """Ancestors of the values of a program."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.live = program.depends_on_inputs()
        self.ancestors: list[frozenset[int]] = []  # of every value, itself included, inputs' descendants only
        self.tensors: list[frozenset[str]] = []  # parameters that a value without inputs is computed from
        names: dict[int, set[str]] = {}
        for name, value in program.parameters.items():
            names.setdefault(value, set()).add(name)
        for made in program.values:
            inputs = () if made.producer is None else program.ops[made.producer].inputs
            above: frozenset[int] = frozenset().union(*(self.ancestors[k] for k in inputs if self.live[k]))
            self.ancestors.append(above | {made.id} if self.live[made.id] else frozenset())
            own = frozenset(names.get(made.id, ()))
            self.tensors.append(own.union(*(self.tensors[k] for k in inputs)) if not self.live[made.id] else own)

    def branches(self, op: Op) -> Iterable[Branch]:
        """The branch that an addition ends, if it ends one."""
        sides = [entry.value for entry in op.arguments[:2] if isinstance(entry, Reference)]
        if op.name != "aten.add" or len(sides) < 2 or not all(self.live[side] for side in sides):
            return
        for stream, end in (sides, sides[::-1]):
            if stream == end or stream not in self.ancestors[end]:
                continue
            path = {value for value in self.ancestors[end] if stream in self.ancestors[value]} - {stream}
            inner = self.read({self.program.values[value].producer for value in path})
            if inner:
                yield Branch(op.module, inner, self.scaling(end, path), stream, op.output, self.ending(end))

    def read(self, ops: Iterable[int | None]) -> frozenset[str]:
        """Parameters that some ops read, directly or through ops on parameters alone."""
        values = (value for op in ops if op is not None for value in self.program.ops[op].inputs)
        return frozenset().union(*(self.tensors[value] for value in values))

    def ending(self, value: int) -> str:
        """The operator that made a value."""
        producer = self.program.values[value].producer
        return "the input" if producer is None else self.program.ops[producer].name

    def scaling(self, value: int, path: set[int]) -> frozenset[str] | None:
        """Tensors whose common factor is a factor of a value on the path; None if there are none."""
        producer = self.program.values[value].producer
        if value not in path or producer is None:
            return None
        op, family = self.program.ops[producer], op_family(self.program.ops[producer])
        on = [k for k in op.inputs if k in path]
        off = [k for k in op.inputs if k not in path]
        own = frozenset().union(*(self.tensors[k] for k in off))
        if family in ("matmul", "batched_matmul", "convolution"):
            if own and sum(self.live[k] for k in op.inputs) == 1:
                return own
            return self.first(on, path)
        if family in NORMS:
            gains = frozenset().union(*(self.tensors[k] for k in op.inputs[1:3]))
            return gains or None
        if family == "multiply":
            return own or self.first(on, path)
        if family == "add" and not any(self.live[k] or self.is_number(k) for k in off):
            return self.every(on, path, own)
        if family == "shape" or op.name in HOMOGENEOUS | AVERAGES:
            return self.every(on, path, frozenset())
        return None

    def is_number(self, value: int) -> bool:
        """Whether a value is a constant other than zero."""
        constant = self.program.constants.get(value)
        return constant is not None and bool((constant != 0).any())

    def first(self, values: Iterable[int], path: set[int]) -> frozenset[str] | None:
        """One factor of a product is enough."""
        return next((found for value in values if (found := self.scaling(value, path)) is not None), None)

    def every(self, values: Iterable[int], path: set[int], own: frozenset[str]) -> frozenset[str] | None:
        """All terms of a sum must scale."""
        parts = [self.scaling(value, path) for value in values]
        if not parts or any(part is None for part in parts):
            return None
        return own.union(*(part for part in parts if part is not None))
