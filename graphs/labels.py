"""Labelling of a program: which axis indices of all its tensors belong to the same neuron."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from graphs.algebra import Algebra, Array, Labels, compress
from graphs.columns import equal_columns, unique_columns
from graphs.fibres import joint_dimensions
from graphs.program import Op, Program, Reference
from graphs.unions import Unions
from modelzoo.errors import UserError


class Walk:
    """One pass over a program, op by op; what the rules read and write.

    Args:
        program: the program to label.
        strict: raise for an op without a rule instead of pinning what it touches.
    """

    def __init__(self, program: Program, strict: bool = False) -> None:
        self.program = program
        self.strict = strict
        self.algebra = Algebra()
        self.values: list[Labels | None] = [None] * len(program.values)
        self.unknown_ops: list[tuple[str, str]] = []

    def run(self) -> "Walk":
        """Label every value.

        Raises:
            UserError: `strict`, and an op has no rule.
        """
        from graphs.rules import rule_of

        program, algebra = self.program, self.algebra
        joint = joint_dimensions(program)
        users = program.users()
        written = {*program.outputs, *program.mutated.values()}
        for name, value in program.tensors.items():
            if self.values[value] is None:
                self.assign(value, self.tensor_labels(value, joint.get(value, ())))
                if not users[value] and value not in written:
                    self.pin_all(value, f"{name} is never used")
        for position, value in enumerate(program.inputs):
            self.assign(value, algebra.all_positions(program.values[value].shape, f"input {position}"))
        for op in program.ops:
            outputs = [value for value in op.outputs if value is not None]
            if not outputs or all(value in program.constants for value in outputs):
                continue
            algebra.now = op.index
            rule = rule_of(op)
            result: Any = self.unknown(op) if rule is None else rule(self, op)
            for output, labels in zip(op.outputs, result if isinstance(result, list) else [result], strict=False):
                if output is not None and labels is not None:
                    self.assign(output, labels)
            if any(self.values[value] is None for value in outputs):
                raise AssertionError(f"the rule of {op.target} gives too few outputs")
        algebra.now = -1
        for name, value in program.mutated.items():
            for old, new in zip(self.value_labels(program.buffers[name]), self.value_labels(value), strict=True):
                algebra.unify(old, new)
        for position, value in enumerate(program.outputs):
            self.pin_all(value, f"output {position}")
        return self

    def assign(self, value: int, labels: Labels) -> None:
        """Set the labels of a value."""
        shape = self.program.values[value].shape
        name = self.program.values[value].name
        assert len(labels) == len(shape), f"{name}: {len(labels)} labels for {shape}"
        checked: list[Array | None] = []
        for axis, array in enumerate(labels):
            if array is not None and shape[axis] == 1:
                array = None
            assert array is None or (array.ndim == len(shape) and array.shape[axis] == shape[axis]), (
                f"{name}: axis {axis} of {shape} labelled {None if array is None else array.shape}"
            )
            checked.append(array)
        self.values[value] = tuple(checked)
        for array in checked:
            self.algebra.mark(array)

    def tensor_labels(self, value: int, joint: Sequence[int]) -> Labels:
        """Fresh labels of a parameter: one per index of a dimension, or one per index of its joint dimensions."""
        shape = self.program.values[value].shape
        rank = len(shape)
        result: list[Array | None] = [None] * rank
        for axis, size in enumerate(shape):
            if size > 1 and axis not in joint:
                result[axis] = self.algebra.fresh(*(size if k == axis else 1 for k in range(rank)))
        if joint:
            sizes = [shape[axis] for axis in joint]
            cells = self.algebra.fresh(int(np.prod(sizes)))
            self.algebra.mark(cells)
            for axis, part in zip(joint, self.algebra.split(cells, 0, sizes), strict=True):
                assert part is not None
                result[axis] = part.reshape([shape[k] if k in joint else 1 for k in range(rank)])
        return tuple(result)

    def value_labels(self, value: int) -> Labels:
        """The labels of a value."""
        found = self.values[value]
        if found is None:
            found = self.constant_labels(value)
            self.assign(value, found)
        return found

    def constant_labels(self, value: int) -> Labels:
        """A constant tensor is free along dimensions on which it does not vary and pinned along the others."""
        tensor = self.program.constants[value]
        name = self.program.values[value].name
        return tuple(
            None
            if tensor.shape[axis] < 2 or bool((tensor == tensor.narrow(axis, 0, 1)).all())
            else self.algebra.positions(tensor.shape[axis], axis, tensor.ndim, f"constant {name}")
            for axis in range(tensor.ndim)
        )

    def labels(self, argument: Any) -> Labels:
        """The labels of a tensor argument."""
        assert isinstance(argument, Reference)
        return self.value_labels(argument.value)

    def shape(self, argument: Any) -> tuple[int, ...]:
        """The shape of a tensor argument."""
        assert isinstance(argument, Reference)
        return self.program.values[argument.value].shape

    def constant(self, argument: Any) -> Tensor | None:
        """The value of a tensor argument that is the same for all parameters and inputs."""
        return self.program.constants.get(argument.value) if isinstance(argument, Reference) else None

    def out_shape(self, op: Op, position: int = 0) -> tuple[int, ...]:
        """The shape of an output (the empty shape if it is unused)."""
        value = op.outputs[position] if position < len(op.outputs) else None
        return () if value is None else self.program.values[value].shape

    def pin_all(self, value: int, why: str) -> None:
        """Pin every dimension of a value."""
        for axis, array in enumerate(self.value_labels(value)):
            self.algebra.pin(array, axis, why)

    def unknown(self, op: Op) -> list[Labels | None]:
        """An op without a rule: pin all it touches.

        Raises:
            UserError: the walk is strict.
        """
        where = f"module {op.module!r} ({op.module_type})" if op.module else "the root module"
        if self.strict:
            raise UserError(
                f"operator {op.target!r} in {where} has no rule, expected one of the covered operators "
                f"(graphs.rules.covered()); leave strict out to pin what it touches, or add a rule under graphs/rules/."
            )
        self.unknown_ops.append((op.target, op.module))
        for value in op.inputs:
            if value not in self.program.constants:
                self.pin_all(value, f"unknown op {op.name}")
        return [
            None if value is None else self.algebra.all_positions(self.program.values[value].shape, op.name)
            for value in op.outputs
        ]


@dataclass(frozen=True)
class Labelling:
    """The neurons of a program: union-find classes of labels, closed under merged dimensions in both directions.

    Args:
        program: what was labelled.
        algebra: the raw labels and every relation between them.
        raw: raw labels of every value.
        neuron: raw label → neuron.
        pinned: `[neuron]`, whether it cannot move.
        unknown_ops: (operator, module path) of ops without a rule, in program order.
    """

    program: Program
    algebra: Algebra = field(repr=False)
    raw: tuple[Labels | None, ...] = field(repr=False)
    neuron: Array = field(repr=False)
    pinned: NDArray[np.bool_] = field(repr=False)
    unknown_ops: tuple[tuple[str, str], ...] = ()

    @cached_property
    def values(self) -> tuple[Labels | None, ...]:
        """Neurons of every value: per dimension an array, or None where the value is constant along it.

        The entry of a value that nothing with parameters reads is None altogether.
        """
        known: dict[int, Array] = {}

        def convert(array: Array | None) -> Array | None:
            if array is None:
                return None
            if id(array) not in known:
                known[id(array)] = compress(self.neuron[array])
            return known[id(array)]

        return tuple(None if labels is None else tuple(map(convert, labels)) for labels in self.raw)

    @cached_property
    def axes(self) -> dict[str, tuple[Array, ...]]:
        """Neurons of every parameter and state buffer: one array per dimension, never None.

        A dimension of size 1 has a label of its own, above all others.
        """
        found: dict[str, tuple[Array, ...]] = {}
        spare = int(self.neuron.max(initial=-1)) + 1
        for name, value in self.program.tensors.items():
            labels = self.values[value]
            assert labels is not None
            arrays = []
            for array in labels:
                if array is None:
                    array, spare = np.full((1,) * len(labels), spare, np.int64), spare + 1
                arrays.append(array)
            found[name] = tuple(arrays)
        return found


def label(program: Program, strict: bool = False) -> Labelling:
    """Label every axis index of a program with its neuron.

    Args:
        program: from `graphs.trace`.
        strict: raise for an op without a rule instead of pinning what it touches.

    Raises:
        UserError: `strict`, and an op has no rule; the sentence names the op and the module.
    """
    walk = Walk(program, strict).run()
    neuron = _closure(walk.algebra)
    pinned = np.zeros(int(neuron.max(initial=-1)) + 1, bool)
    for labels, _ in walk.algebra.pins:
        pinned[neuron[labels]] = True
    return Labelling(program, walk.algebra, tuple(walk.values), neuron, pinned, tuple(walk.unknown_ops))


def _closure(algebra: Algebra) -> Array:
    """Union-find classes of all ties, closed under congruence of merged dimensions both ways.

    If all coordinates of two labels are one, so are the labels; if two labels are one, so are their coordinates. Then
    a coordinate that only one label has (the feature of a head's own) is the same neuron as that label.
    """
    unions = Unions(algebra.count)
    for first, second, _ in algebra.same:
        unions.join(first, second)
    classes = _congruent(algebra, unions)
    ties = []
    for table in algebra.decompositions.values():
        for column in range(table.parts.shape[1]):
            known = np.flatnonzero(table.parts[:, column] >= 0)
            wholes, labels = table.wholes[known], table.parts[known, column]
            parts = classes[labels]
            pairs = unique_columns(np.stack([parts, classes[wholes]]))
            single = np.bincount(pairs[0], minlength=int(pairs.max(initial=0)) + 1) == 1
            chosen = single[parts]
            ties.append((wholes[chosen], labels[chosen]))
    for first, second in ties:
        unions.join(first, second)
    return _congruent(algebra, unions)


def _congruent(algebra: Algebra, unions: Unions) -> Array:
    """Close classes under congruence and return them."""
    classes = unions.classes()
    while True:
        for table in algebra.decompositions.values():
            parts = np.where(table.parts < 0, table.parts, classes[np.maximum(table.parts, 0)])
            _tie(unions, parts, table.wholes)
            for column in range(parts.shape[1]):
                chosen = np.flatnonzero(table.parts[:, column] >= 0)
                _tie(unions, classes[table.wholes[chosen], None], table.parts[chosen, column])
        merged = unions.classes()
        if merged.max(initial=-1) == classes.max(initial=-1):
            return classes.astype(np.int64)
        classes = merged


def _tie(unions: Unions, keys: Array, labels: Array) -> None:
    """Tie all labels with equal keys, `[label, numbers]`."""
    order, starts, counts = equal_columns(keys.T)
    labels = labels[order]
    unions.join(labels, labels[starts].repeat(counts))
