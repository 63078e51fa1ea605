"""Labelling of a program: which axis indices of all its tensors belong to the same neuron."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from graphs.algebra import Algebra, Array, Labels, compress
from graphs.columns import packed, unique_columns
from graphs.fibres import joint_dimensions
from graphs.program import Op, Program, Reference
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
        pinned: neuron → why it cannot move.
        unknown_ops: (operator, module path) of ops without a rule, in program order.
    """

    program: Program
    algebra: Algebra = field(repr=False)
    raw: tuple[Labels | None, ...] = field(repr=False)
    neuron: Array = field(repr=False)
    pinned: Mapping[int, str] = field(repr=False)
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
    pinned: dict[int, str] = {}
    for labels, why in walk.algebra.pins:
        for position, name in enumerate(neuron[labels].tolist()):
            pinned.setdefault(name, f"{why} {position}")
    return Labelling(program, walk.algebra, tuple(walk.values), neuron, pinned, tuple(walk.unknown_ops))


def _closure(algebra: Algebra) -> Array:
    """Union-find classes of all ties, closed under congruence of merged dimensions both ways.

    If all coordinates of two labels are one, so are the labels; if two labels are one, so are their coordinates. Then
    a coordinate that only one label has (the feature of a head's own) is the same neuron as that label.
    """
    classes = _congruent(algebra, components(algebra.count, [(a, b) for a, b, _ in algebra.same]))
    ties = []
    for table in algebra.decompositions.values():
        wholes = classes[table.wholes]
        for column in range(table.parts.shape[1]):
            known = table.parts[:, column] >= 0
            parts = classes[table.parts[known, column]]
            pairs = unique_columns(np.stack([parts, wholes[known]]))
            single = np.bincount(pairs[0], minlength=int(pairs.max(initial=0)) + 1) == 1
            chosen = single[parts]
            ties.append((table.wholes[known][chosen], table.parts[known, column][chosen]))
    return _congruent(algebra, components(algebra.count, [*ties, (np.arange(algebra.count), _first(classes))]))


def _congruent(algebra: Algebra, classes: Array) -> Array:
    """The finest classes above the given ones that are closed under congruence."""
    while True:
        extra = []
        for table in algebra.decompositions.values():
            wholes = classes[table.wholes]
            parts = np.where(table.parts < 0, table.parts, classes[np.maximum(table.parts, 0)])
            extra += _ties(parts, table.wholes)
            for column in range(parts.shape[1]):
                chosen = table.parts[:, column] >= 0
                extra += _ties(wholes[chosen, None], table.parts[chosen, column])
        merged = components(algebra.count, [*extra, (np.arange(algebra.count), _first(classes))])
        if merged.max(initial=-1) == classes.max(initial=-1):
            return classes
        classes = merged


def _first(classes: Array) -> Array:
    """For every label the first label of its class."""
    _, first, inverse = np.unique(classes, return_index=True, return_inverse=True)
    return first[inverse.ravel()]


def _ties(keys: Array, labels: Array) -> list[tuple[Array, Array]]:
    """Pairs that tie all labels with equal keys."""
    if not len(keys):
        return []
    _, first, inverse = np.unique(packed(keys.T), return_index=True, return_inverse=True)
    return [(labels, labels[first[inverse.ravel()]])]


def components(count: int, pairs: Sequence[tuple[Array, Array]]) -> Array:
    """Connected components of an undirected graph, numbered by their first member."""
    if not count:
        return np.empty(0, np.int64)
    rows = np.concatenate([first.ravel() for first, _ in pairs] or [np.empty(0, np.int64)])
    columns = np.concatenate([second.ravel() for _, second in pairs] or [np.empty(0, np.int64)])
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), (count, count))
    component = connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.ravel()].astype(np.int64)
