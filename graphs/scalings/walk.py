"""The scale of every value of a program, as unknowns of a linear system.

A symmetry that only multiplies entries gives every value a scale: value[i, j, …] is multiplied by
`exp(Σ_t term_t[i, j, …])`, a sum of *terms*, each an array of unknowns of the value's rank and of size 1 along the
dimensions it does not depend on. Every parameter starts with one unknown an index of each dimension; every operator
says with equations how the terms of its inputs and outputs hang together. The same walk answers five questions:

* `positive`: log-scales, over the reals (ReLU carries them on, tanh forbids them);
* `sign`: flips, over GF(2) (tanh carries them on, ReLU forbids them);
* `phase`: angles of complex values, over the reals (linear maps carry them on, taking the real part forbids them);
* `linear`: axes that are only ever mixed linearly: what survives here carries GL(n);
* `orthogonal`: the same where an axis also meets itself, in a norm or a Gram matrix: what survives carries O(n).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np

from graphs.fibres import joint_dimensions
from graphs.program import Op, Program, Reference
from graphs.scalings.system import Ids, LinearSystem

Kind = Literal["positive", "sign", "phase", "linear", "orthogonal"]
Terms = list[Ids]
Scale = Terms | None  # None is the scale of an all-zero value: anything

Rule = Callable[["ScaleWalk", Op], None]
_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the scaling rule of operators, named without overload (`aten.relu`)."""

    def add(function: Rule) -> Rule:
        for name in names:
            if name in _RULES:
                raise ValueError(f"operator {name!r} has two scaling rules")
            _RULES[name] = function
        return function

    return add


@dataclass
class ScaleWalk:
    """One walk over a program.

    Args:
        program: what to walk.
        kind: which question to ask.
        free_signs: indices of operators whose output may take any sign (a sine that is shifted by half a period).
        uniform: whether all entries of a tensor are scaled alike. Indices of two dimensions that meet may not lend each
            other a constant otherwise: what the channels gain as a whole the positions may lose.

    `scales` and `parameters` hold the terms of every value and of every named tensor, `contracted` the terms that were
    summed over, `additive` those of parameters that are exponentiated and so carry their scale as a summand, `offsets`
    what is added to a tensor before it is scaled (ε to a variance).
    """

    program: Program
    kind: Kind
    system: LinearSystem = field(init=False)
    scales: dict[int, Scale] = field(default_factory=dict)
    parameters: dict[str, Terms] = field(default_factory=dict)
    contracted: list[tuple[Ids, tuple[int, ...]]] = field(default_factory=list)
    additive: dict[str, Terms] = field(default_factory=dict)
    offsets: dict[str, float] = field(default_factory=dict)
    free_signs: Mapping[int, bool] = field(default_factory=dict)
    uniform: bool = False
    joint: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.system = LinearSystem(2 if self.kind == "sign" else 0)

    @property
    def mixes(self) -> bool:
        """Whether whole axes are mixed, so that anything acting index by index forbids it."""
        return self.kind in ("linear", "orthogonal")

    def run(self) -> "ScaleWalk":
        """Walk the whole program; returns itself."""
        import graphs.scalings.rules  # noqa: F401  (registers the rules)

        grouped = _grouped_weights(self.program)
        self.joint = joint_dimensions(self.program)
        used = self.program.users()
        for name, value in self.program.tensors.items():
            self.scales[value] = self.parameters[name] = self.unknowns(value, grouped.get(value, 1))
            if not used[value]:
                self.forbid(self.parameters[name])  # an unused tensor can be scaled in any way, which says nothing
        for value in self.program.inputs:
            self.scales[value] = []
        for value, tensor in self.program.constants.items():
            self.scales[value] = None if not bool(tensor.any()) else []
        for op in self.program.ops:
            if all(output is None or output in self.program.constants for output in op.outputs):
                continue
            _RULES.get(op.name, forbid_all)(self, op)
            for output in op.outputs:
                if output is not None and output not in self.scales:
                    forbid_all(self, op)
        for value in self.program.outputs:
            self.forbid(self.terms(Reference(value)))
        return self

    def unknowns(self, value: int, groups: int = 1) -> Terms:
        """Fresh terms of a tensor: one unknown an index of each dimension, of each tuple where dimensions are joint."""
        shape = self.program.values[value].shape
        if self.kind == "phase" and not self.program.values[value].dtype.is_complex:
            return []
        if self.uniform:
            return [self.system.fresh((1,) * len(shape))]
        wide = [d for d, size in enumerate(shape) if size > 1]
        if self.mixes:
            subsets: list[tuple[int, ...]] = [(d,) for d in wide]
        else:
            joint = self.joint.get(value, ()) if groups == 1 else ()
            singles = [d for d in range(len(shape)) if d not in wide][:1]
            subsets = [(d,) for d in sorted({*wide, *singles})] or [()]
            if groups > 1 and shape[1] == 1:  # a group of one input channel: its scale is that of the row
                subsets.remove((1,))
            subsets += [subset for count in range(2, len(joint) + 1) for subset in combinations(joint, count)]
        terms = []
        for subset in subsets:
            if subset == (1,) and groups > 1:  # the input channels of every group have their own scales
                own = np.repeat(self.system.fresh((groups, shape[1])), shape[0] // groups, axis=0)
                terms.append(own.reshape(*shape[:2], *[1] * (len(shape) - 2)))
            else:
                terms.append(self.system.fresh(tuple(size if d in subset else 1 for d, size in enumerate(shape))))
        return terms

    # --- access -------------------------------------------------------------------------------------------------

    def shape(self, argument: Any) -> tuple[int, ...]:
        """Shape of a tensor argument; `()` for a number."""
        return self.program.values[argument.value].shape if isinstance(argument, Reference) else ()

    def scale(self, argument: Any) -> Scale:
        """Scale of a tensor argument; a number has none."""
        if not isinstance(argument, Reference):
            return None if argument == 0 else []
        return self.scales[argument.value]

    def terms(self, argument: Any) -> Terms:
        """Terms of an argument, `[]` for an all-zero value and for a number."""
        return self.scale(argument) or []

    def set(self, op: Op, scale: Scale, index: int = 0) -> None:
        """Record the scale of an output."""
        output = op.outputs[index]
        if output is None:
            return
        if scale is not None:
            rank = len(self.program.values[output].shape)
            assert all(term.ndim == rank for term in scale), (op.target, [t.shape for t in scale], rank)
            scale = self.collect(scale)
        self.scales[output] = scale

    # --- algebra of terms ---------------------------------------------------------------------------------------

    def collect(self, terms: Sequence[Ids], signs: Sequence[int] | None = None) -> Terms:
        """Terms with the same dependence added up, vanished ones dropped."""
        if self.mixes and not signs:  # which of two axes is mixed must stay visible
            return [term for term in terms if term.any()]
        by_pattern: dict[tuple[bool, ...], list[tuple[int, Ids]]] = {}
        for position, term in enumerate(terms):
            if term.any():
                pattern = tuple(size > 1 for size in term.shape)
                by_pattern.setdefault(pattern, []).append((signs[position] if signs else 1, term))
        return [found for group in by_pattern.values() if (found := self.system.combination(*group)).any()]

    def forbid(self, terms: Sequence[Ids]) -> None:
        """Require that nothing is scaled here: terms may cancel against those of the dimensions they depend on."""
        alive = [term for term in terms if term.any()]
        patterns = [] if self.mixes else _maximal([term.shape for term in alive])
        for pattern in patterns:
            own = [term for term in alive if _home(term.shape, patterns) == pattern]
            if len(own) == 1:
                self.system.zero(own[0])
            else:
                self.system.equation(*((1, term) for term in own))
        for term in alive if self.mixes else []:
            self.system.zero(term)

    def forbid_along(self, terms: Sequence[Ids], axes: Sequence[int]) -> Terms:
        """Require that the scale does not depend on these dimensions; returns the terms without them."""
        kept = []
        for term in terms:
            if all(term.shape[axis] == 1 for axis in axes):
                kept.append(term)
            elif self.mixes:
                self.forbid([term])
            else:
                first = term[tuple(slice(0, 1) if d in axes else slice(None) for d in range(term.ndim))]
                self.system.equal(term, first)
                kept.append(first)
        return kept

    def equate(self, left: Scale, right: Scale) -> Scale:
        """Require equal scales (of broadcast operands of equal rank); an all-zero side agrees with anything."""
        if left is None or right is None:
            return right if left is None else left
        patterns = _maximal([term.shape for term in (*left, *right)])
        for pattern in patterns:
            sides = []
            for terms in (left, right):
                own = [(1, term) for term in terms if _home(term.shape, patterns) == pattern]
                sides.append(self.system.combination(*own) if own else np.zeros((1,) * len(pattern), dtype=np.int64))
            if sides[0].any() or sides[1].any():
                self.system.equal(sides[0], sides[1])
        return left

    def contract(self, terms: Sequence[Ids], axes: Sequence[int], open_: bool = False) -> Terms:
        """A product summed over some dimensions: the scales along them must cancel; returns the others, same rank.

        Args:
            terms: of all factors, broadcast against each other.
            axes: what is summed over.
            open_: terms that depend on other dimensions, too, may leave a term of those (a scale of rows that was made
                one with that of columns when they were merged).
        """
        dependent = [term for term in terms if any(term.shape[axis] > 1 for axis in axes) and term.any()]
        kept = [term for term in terms if not any(term.shape[axis] > 1 for axis in axes)]
        patterns = _maximal([term.shape for term in dependent])
        for pattern in patterns:
            own = [term for term in dependent if _home(term.shape, patterns) == pattern]
            if self.mixes:
                self._contract_mixed(own, axes)
                continue
            shape = np.broadcast_shapes(*(term.shape for term in own))
            rest = tuple(1 if d in axes else size for d, size in enumerate(shape))
            if open_ and max(rest) > 1:
                kept.append(self.system.fresh(rest))
                self.system.equation((-1, kept[-1]), *((1, term) for term in own))
            else:
                self.system.equation(*((1, term) for term in own))
        return kept

    def _contract_mixed(self, own: list[Ids], axes: Sequence[int]) -> None:
        """Terms pair up: those that see the same part of a merged dimension, then one with what it repeats.

        A mixing of features that were expanded (over the query heads of a group, over positions) and then merged into
        the summed dimension acts on the other factor's index as M ⊗ I, which is in what that factor can undo.
        """
        alike: dict[bytes, list[Ids]] = {}
        for term in own:
            alike.setdefault(_partition(term, axes).tobytes(), []).append(term)
        pairs = [group for group in alike.values() if len(group) == 2]
        rest = [term for group in alike.values() if len(group) != 2 for term in group]
        if len(rest) == len(alike) - len(pairs) == 2 and _nested(*(_partition(term, axes) for term in rest)):
            pairs.append(rest)
        else:
            self.forbid(rest)
        for pair in pairs:
            self.system.equation((1, pair[0]), (1 if self.kind == "linear" else -1, pair[1]))
            for term in pair:
                self.contracted.append((term, tuple(axis for axis in axes if term.shape[axis] > 1)))

    def separate(self, terms: Sequence[Ids], axes: Sequence[int]) -> Terms:
        """Indices at different places of these dimensions meet different numbers: they must not be mixed."""
        if self.mixes:
            for term in terms:
                kept = tuple(d for d, size in enumerate(term.shape) if size > 1 and d not in axes)
                if any(term.shape[axis] > 1 for axis in axes):
                    self.contracted.append((term, kept))
        return list(terms)

    def lift(self, argument: Any, shape: tuple[int, ...]) -> Terms:
        """Terms of an operand that is broadcast to a shape."""
        extra = len(shape) - len(self.shape(argument))
        return [term.reshape((1,) * extra + term.shape) for term in self.terms(argument)]


def _partition(term: Ids, axes: Sequence[int]) -> Ids:
    """For every index of the summed dimensions the first one that a term does not tell from it."""
    kept = np.moveaxis(term, axes, range(term.ndim - len(axes), term.ndim))
    rows = kept.reshape(-1, int(np.prod([term.shape[axis] for axis in axes]))).T  # [index, rest]
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return first[inverse.ravel()]


def _nested(a: Ids, b: Ids) -> bool:
    """Whether one of two partitions of the same indices tells apart all that the other one does."""
    return len(a) == len(b) and bool((a[b] == a).all() or (b[a] == b).all())


def _maximal(shapes: Sequence[tuple[int, ...]]) -> list[tuple[bool, ...]]:
    patterns = {tuple(size > 1 for size in shape) for shape in shapes}
    return [p for p in sorted(patterns) if not any(p != q and _within(p, q) for q in patterns)]


def _within(small: tuple[bool, ...], large: tuple[bool, ...]) -> bool:
    return all(not a or b for a, b in zip(small, large, strict=True))


def _home(shape: tuple[int, ...], patterns: Sequence[tuple[bool, ...]]) -> tuple[bool, ...]:
    own = tuple(size > 1 for size in shape)
    return next(pattern for pattern in patterns if _within(own, pattern))


def _grouped_weights(program: Program) -> dict[int, int]:
    """Weights that a grouped convolution reads → number of groups."""
    found = {}
    for op in program.ops:
        if op.name == "aten.convolution" and isinstance(op.arguments[1], Reference) and not op.arguments[6]:
            found[op.arguments[1].value] = int(op.arguments[8])
    return found


def forbid_all(walk: ScaleWalk, op: Op) -> None:
    """The rule for everything without one: no scaling may touch the operator."""
    for value in op.inputs:
        walk.forbid(walk.terms(Reference(value)))
    for index, output in enumerate(op.outputs):
        if output is not None:
            walk.set(op, [], index)
