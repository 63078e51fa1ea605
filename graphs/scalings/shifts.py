"""Additive shifts of parameters, followed through a program until something absorbs them.

A shift of a parameter shifts what is computed from it. Affine operators carry the shift on; a softmax, a mean
subtraction or a normalization swallows one that is constant along its dimension; and wherever a value that has been
shifted by the same amount for all inputs also has a bias added to it, that bias can take the shift back. If no output
is left shifted, the parameter has a translation symmetry. Shifts are followed by their numbers: the program is run
once on random parameters and two random sets of inputs, and only the operators behind the shifted parameter again.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from graphs.interpreter import BATCH_NORM, Run, Shifted, call
from graphs.program import Op, Program, Reference
from graphs.scalings.coordinates import first_names
from graphs.scalings.leaves import LARGEST, MOVES, Carried, Leaf, Sink, random_tensor, where_moved

PICKS = frozenset(f"aten.{name}" for name in ("slice", "select", "split", "split_with_sizes", "unbind", "chunk"))
REARRANGES = MOVES - PICKS  # no entry is lost
# Affine in each tensor argument: they carry a shift on. Sums may cancel one.
SUMS = frozenset(f"aten.{name}" for name in ("add", "sub", "rsub", "cat", "stack"))
AFFINE = MOVES | SUMS | {BATCH_NORM} | frozenset(
    f"aten.{name}" for name in (
        "tril", "triu",
        "mul", "neg", "mm", "bmm", "addmm", "baddbmm", "mv", "dot", "convolution", "embedding", "sum", "mean", "cumsum",
        "index_select", "gather", "index", "avg_pool1d", "avg_pool2d",
        "_adaptive_avg_pool2d", "complex", "real", "imag", "view_as_real", "view_as_complex", "constant_pad_nd",
        "_to_copy", "_fft_r2c", "_fft_c2r", "_fft_c2c", "index_add", "scatter_add", "div",
    )
)  # fmt: skip
INVARIANT = frozenset(
    f"aten.{name}" for name in ("_softmax", "_log_softmax", "softmax", "log_softmax", "native_layer_norm", "native_group_norm")
)  # fmt: skip
ATTENTION = frozenset(
    ("aten._scaled_dot_product_flash_attention_for_cpu", "aten.scaled_dot_product_attention")
)  # softmax(q kᵀ) v: affine in v, and invariant to a common shift of all keys
PERIODIC = frozenset(("aten.sin", "aten.cos"))  # they swallow whole periods
PARTIAL = frozenset(("aten.real", "aten.imag", "aten._fft_c2r"))  # they read only part of complex numbers
TRIANGLES = frozenset(("aten.tril", "aten.triu"))  # they read only some entries,
MASKS = frozenset(("aten.mul", "aten.where"))  # and these do where they meet constants
BIAS = {"aten.addmm": 0, "aten.baddbmm": 0, "aten.convolution": 2, "aten.native_layer_norm": 3, "aten.native_group_norm": 2,
        BATCH_NORM: 2}  # fmt: skip
PRODUCTS = {"aten.mul": (0, 1), "aten.mm": (0, 1), "aten.bmm": (0, 1), "aten.mv": (0, 1), "aten.dot": (0, 1),
            "aten.addmm": (1, 2), "aten.baddbmm": (1, 2), "aten.convolution": (0, 1),
            BATCH_NORM: (0, 1, 3)}  # fmt: skip
TOLERANCE = 1e-9
ROWS = 16  # of an embedding


def _carries(name: str, shifted: list[int], alive: bool) -> bool:
    """Whether an operator may carry a shift of these arguments on (`alive`), or may swallow it."""
    if name in ATTENTION:
        return not alive or not {0, 1} & set(shifted)
    if name in INVARIANT:
        return not alive or 0 not in shifted
    if name in PERIODIC:
        return not alive
    if name in PRODUCTS and (len(set(PRODUCTS[name]) & set(shifted)) > 1):
        return False
    if (name == "aten.div" and 1 in shifted) or ("batch_norm" in name and 4 in shifted):
        return False
    if name in PARTIAL | TRIANGLES and not alive:
        return True
    return name in AFFINE and (alive or name in MOVES | SUMS or BIAS.get(name) in shifted)


class Blocked(Exception):
    """A shift met an operator that neither carries it on nor swallows it."""


@dataclass
class Shifts:
    """Follows shifts through a program.

    The random weights of large tensors are overlapping views of short buffers, and an embedding that the inputs index
    has few rows here: what is kept is far smaller than the weights.

    Args:
        program: the traced module.
        seed: of the random parameters and inputs.
        draws: how many sets of inputs; two tell what depends on them.
    """

    program: Program
    seed: int = 0
    draws: int = 2
    _carried: dict[int, list[Carried]] = field(default_factory=dict)
    _sizes: dict[tuple[int, int], float] = field(default_factory=dict)

    @cached_property
    def tied(self) -> dict[str, tuple[str, ...]]:
        """First name of every tensor → all its names."""
        return first_names(self.program)

    @cached_property
    def twin(self) -> "Shifts":
        """The same with other random numbers, and one set of inputs."""
        return Shifts(self.program, self.seed + 9, 1)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors here, by first name."""
        found = {}
        for name in self.tied:
            value = self.program.tensors[name]
            shape = self.program.values[value].shape
            readers = [self.program.ops[i] for i in self.users[value]]
            indexed = all(
                op.name == "aten.embedding" and op.arguments[0] == Reference(value) and op.inputs.count(value) == 1
                and op.inputs[1] not in self.known
                for op in readers
            )  # fmt: skip
            table = readers and indexed and value not in self.program.outputs
            found[name] = (min(ROWS, shape[0]), *shape[1:]) if table else shape
        return found

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Random tensors, variances positive."""
        generator = torch.Generator().manual_seed(self.seed)
        variances = {op.arguments[4].value for op in self.program.ops if op.name == BATCH_NORM}
        found: dict[str, Tensor] = {}
        for names in self.tied.values():
            value = self.program.values[self.program.tensors[names[0]]]
            shape = self.shapes[names[0]]
            spread = max(1.0, math.prod(shape) / max(1, shape[0])) if shape else 1.0
            tensor = random_tensor(shape, value.dtype, spread**-0.5, generator)
            if value.id in variances:
                tensor = tensor.abs() + 0.5
            found.update(dict.fromkeys(names, tensor))
        return found

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """All values for random sets of inputs."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        rows = [self.shapes[name][0] for name in self.tied for op in self.program.ops if op.name == "aten.embedding"
                if op.arguments[0] == Reference(self.program.tensors[name])]  # fmt: skip
        found = []
        for _ in range(self.draws):
            inputs = []
            for value in (self.program.values[v] for v in self.program.inputs):
                if value.dtype is torch.bool:
                    inputs.append(torch.ones(value.shape, dtype=torch.bool))
                elif value.dtype.is_floating_point or value.dtype.is_complex:
                    wide = torch.complex128 if value.dtype.is_complex else torch.float64
                    inputs.append(torch.randn(value.shape, generator=generator, dtype=wide))
                else:
                    high = min(rows, default=2)
                    inputs.append(torch.randint(0, high, value.shape, generator=generator).to(value.dtype))
            found.append(Run(self.program, self.tensors, inputs))
        return tuple(found)

    @cached_property
    def known(self) -> frozenset[int]:
        """The values that depend on no input."""
        return frozenset(value for value, live in enumerate(self.program.depends_on_inputs()) if not live)

    @cached_property
    def users(self) -> tuple[tuple[int, ...], ...]:
        """For every value the operators that read it."""
        return self.program.users()

    @cached_property
    def group_norms(self) -> dict[int, set[int]]:
        """Numbers of groups that group norms take channels in, by the number of channels; several channels a group."""
        found: dict[int, set[int]] = {}
        for op in self.program.ops:
            if op.name == "aten.native_group_norm":
                channels, groups = self.program.values[op.inputs[0]].shape[1], op.arguments[6]
                if 1 < groups < channels:
                    found.setdefault(channels, set()).add(groups)
        return found

    @cached_property
    def leaves(self) -> list[Leaf]:
        """Every part of a tensor that is computed with, as long as no entry is in two of them."""
        found: list[Leaf] = []
        for name in self.tied:
            value = self.program.tensors[name]
            if self.program.values[value].dtype not in (torch.float32, torch.float64):
                continue
            shape = self.program.values[value].shape
            own: list[Leaf] = []
            self._descend(Leaf(name, value, shape, shape), own)
            if len(own) > 1:
                entries = torch.cat([leaf.positions.flatten() for leaf in own])
                if len(entries.unique()) < len(entries):
                    continue
            found += own
        return found

    def _descend(self, leaf: Leaf, found: list[Leaf]) -> None:
        """Add the leaves behind a value that is nothing but entries of a tensor."""
        readers = [self.program.ops[i] for i in self.users[leaf.value]]
        if leaf.value in self.program.outputs or any(
            op.name not in MOVES - {"aten.expand", "aten.repeat"} for op in readers
        ):
            found.append(leaf)
            return
        for op in readers:
            for place, output in enumerate(op.outputs):
                if output is not None:
                    shape = self.program.values[output].shape
                    self._descend(Leaf(leaf.tensor, output, leaf.source, shape, (*leaf.trail, (op, place))), found)

    @cached_property
    def leaf_of(self) -> dict[int, Leaf]:
        """Leaves by their value."""
        return {leaf.value: leaf for leaf in self.leaves}

    def carried(self, value: int) -> list[Carried]:
        """The leaves that are added to a value, each with the entry added at every place."""
        if value in self.leaf_of:
            return [Carried(self.leaf_of[value], self.leaf_of[value].positions)]
        if value in self._carried:
            return self._carried[value]
        found = self._find_carried(value)
        producer = self.program.values[value].producer
        moves = producer is not None and self.program.ops[producer].name in MOVES
        if not (found and moves):  # what moves make may be as large as the weights
            self._carried[value] = found
        return found

    def _find_carried(self, value: int) -> list[Carried]:
        producer = self.program.values[value].producer
        if producer is None or value in self.program.constants:
            return []
        op = self.program.ops[producer]
        shape = self.program.values[value].shape
        if op.name in BIAS:
            bias = op.argument(BIAS[op.name], "bias")
            if op.name == "aten.native_group_norm" or not isinstance(bias, Reference) or op.outputs[0] != value:
                return []
            tail = [1] * (len(shape) - 2) if op.name in ("aten.convolution", BATCH_NORM) else []  # fmt: skip
            return [
                Carried(each.leaf, each.where.reshape(*each.where.shape, *tail).expand(shape))
                for each in self.carried(bias.value)
            ]
        if op.name in ("aten.add", "aten.sub") and op.keywords.get("alpha", 1) == 1:
            operands = op.arguments[: 2 if op.name == "aten.add" else 1]
            return [
                Carried(each.leaf, each.where.expand(shape))
                for operand in operands if isinstance(operand, Reference)
                for each in self.carried(operand.value)
            ]  # fmt: skip
        if op.name == "aten.embedding" and isinstance(op.arguments[1], Reference):
            index = self.program.constants.get(op.arguments[1].value)
            table = op.arguments[0]
            if index is not None and isinstance(table, Reference):
                return [Carried(each.leaf, each.where[index]) for each in self.carried(table.value)]
        if op.name in MOVES and op.outputs.count(value):
            source = next(argument for argument in op.arguments if isinstance(argument, Reference))
            place = op.outputs.index(value)
            return [
                Carried(each.leaf, call(op, partial(where_moved, each.where))[place])
                for each in self.carried(source.value)
            ]
        return []

    def multiplied(self, leaf: Leaf) -> bool:
        """Whether a leaf is multiplied by what depends on the inputs, so that an arbitrary shift does so too."""
        for op in (self.program.ops[i] for i in self.users[leaf.value]):
            factors = [op.arguments[k] for k in PRODUCTS.get(op.name, ()) if k < len(op.arguments)]
            if op.name == BATCH_NORM and op.arguments[3] == Reference(leaf.value):  # γ (x − μ): γ alone multiplies μ
                factors = [op.arguments[1], op.arguments[3]]
            if Reference(leaf.value) in factors and any(
                isinstance(other, Reference) and other.value not in self.known for other in factors
            ):
                return True
        return False

    def follow(
        self, leaf: Leaf, shift: Tensor, allowed: Callable[[str], bool], gain: Tensor | None = None
    ) -> list[Sink] | None:
        """Shift a leaf and find the biases that take it back; None if an output stays shifted.

        Args:
            leaf: what is shifted.
            shift: `[*shape of the leaf]`, by how much.
            allowed: whether a tensor may be a sink.
            gain: what the shift is divided by, of the same shape.
        """
        start: tuple[int, Tensor | Shifted]
        if leaf.entries is None:
            moved = Shifted(self.runs[0][leaf.value], shift, gain)
            start = leaf.value, moved if shift.numel() > LARGEST else moved.total()
        else:
            value = self.program.tensors[leaf.tensor]
            change = torch.zeros(self.tensors[leaf.tensor].numel(), dtype=shift.dtype)
            change[leaf.entries.flatten()] = shift.flatten()
            start = value, self.runs[0][value] + change.reshape(self.shapes[leaf.tensor])
        return self._extend(start, {}, [], allowed)

    def _extend(
        self,
        start: tuple[int, Tensor | Shifted],
        changes: Mapping[str, Tensor],
        sinks: list[Sink],
        allowed: Callable[[str], bool],
    ) -> list[Sink] | None:
        """Take back what is still shifted, by the first bias with which it works out."""
        refused: set[tuple[int, str]] = set()
        while True:
            try:
                found = self._pass(
                    start, changes, lambda value, tensor: (value, tensor) not in refused and allowed(tensor)
                )
            except Blocked:
                return None
            if found is None:
                return sinks
            sink, amount = found
            change = changes.get(
                sink.tensor, torch.zeros(self.tensors[sink.tensor].numel(), dtype=torch.float64)
            ).clone()
            change[sink.entries] -= amount
            result = self._extend(start, {**changes, sink.tensor: change}, [*sinks, sink], allowed)
            if result is not None:
                return result
            refused.add((sink.value, sink.tensor))

    def behind(self, leaf: Leaf) -> list[int]:
        """The values that are computed from a leaf, in order."""
        found = {leaf.value}
        for op in self.program.ops:
            if any(value in found for value in op.inputs):
                found |= {output for output in op.outputs if output is not None}
        return sorted(found - {leaf.value})

    def path(self, changed: set[str], sink: Sink) -> tuple[Op, ...]:
        """The operators between changed tensors and a sink, in order."""
        behind = {sink.value}
        for op in reversed(self.program.ops):
            if any(output in behind for output in op.outputs):
                behind |= set(op.inputs)
        ahead = {self.program.tensors[name] for name in changed}
        found = []
        for op in self.program.ops:
            if any(value in ahead for value in op.inputs) and any(output in behind for output in op.outputs):
                ahead |= {output for output in op.outputs if output is not None}
                found.append(op)
        return tuple(found)

    def _pass(
        self, start: tuple[int, Tensor | Shifted], changes: Mapping[str, Tensor], allowed: Callable[[int, str], bool]
    ) -> tuple[Sink, Tensor] | None:
        """Carry a shifted value and changed biases through the program up to the first that a bias can take back."""
        moved: tuple[dict[int, Tensor | Shifted], ...] = (dict([start]), dict([start]))
        for name, change in changes.items():
            value = self.program.tensors[name]
            both = self.runs[0][value] + change.reshape(self.runs[0][value].shape)
            for now in moved:
                now[value] = both
        waiting = sorted({i for value in moved[0] for i in self.users[value]})
        seen: set[int] = set()
        while waiting:
            index = waiting.pop(0)
            if index in seen:
                continue
            seen.add(index)
            op = self.program.ops[index]
            for output in self._step(op, moved):
                sink = self._sink(output, moved, changes, allowed)
                if sink is not None:
                    return sink
                waiting = sorted({*waiting, *self.users[output]})
        return None

    def _step(self, op: Op, moved: tuple[dict[int, Tensor | Shifted], ...]) -> list[int]:
        """Evaluate one operator again; the outputs that have changed."""
        if all(value in self.program.constants for value in op.outputs if value is not None):
            return []
        changed: list[int] = []
        before = set(moved[0])
        results: list[Any] = []
        for number, (run, now) in enumerate(zip(self.runs, moved, strict=True)):
            if not (number and all(value in self.known for value in op.inputs)):
                results = call(op, lambda value, now=now, run=run: now[value] if value in now else run[value])  # type: ignore[misc]
            for output, result in zip(op.outputs, results, strict=False):
                if output is None:
                    continue
                if isinstance(result, Shifted):  # turned
                    now[output] = result
                    changed = [output]
                    continue
                if not (result.is_floating_point() or result.is_complex()):
                    if not torch.equal(result, run[output]):
                        raise Blocked
                    continue
                if op.name in REARRANGES:
                    now[output] = result
                    changed = [output]
                    continue
                gap = float((result - run[output]).abs().max()) if result.numel() else 0.0
                if not math.isfinite(gap):
                    raise Blocked
                if gap > TOLERANCE * self._largest(number, output):
                    now[output] = result
                    if output not in changed:
                        changed.append(output)
        for output in changed:
            for run, now in zip(self.runs, moved, strict=True):
                now.setdefault(output, run[output])
        fresh = [k for k, r in enumerate(op.arguments) if isinstance(r, Reference) and r.value in before]
        infinite = op.name in ("aten.eq", "aten.ne") and op.arguments[1] in (math.inf, -math.inf)  # in a safe softmax
        masked = op.name in MASKS and not changed and any(value in self.program.constants for value in op.inputs)
        if not (infinite or masked or _carries(op.name, fresh, bool(changed))):
            raise Blocked
        return changed

    def _largest(self, run: int, value: int) -> float:
        """The largest absolute number of a value in a run, at least 1."""
        if (run, value) not in self._sizes:
            self._sizes[run, value] = max(1.0, float(self.runs[run][value].abs().max()))
        return self._sizes[run, value]

    def _sink(
        self,
        value: int,
        moved: tuple[dict[int, Tensor | Shifted], ...],
        changes: Mapping[str, Tensor],
        allowed: Callable[[int, str], bool],
    ) -> tuple[Sink, Tensor] | None:
        """A bias that takes back the whole shift of a value."""
        if value in self.leaf_of:
            return None
        producer = self.program.values[value].producer
        same = producer is not None and self.program.ops[producer].name in REARRANGES  # as what it is made of
        carriers = [] if same else self.carried(value)
        if not carriers and value not in self.program.outputs:
            return None
        after = [found.total() if isinstance(found := now[value], Shifted) else found for now in moved]
        shifts = [found - run[value] for run, found in zip(self.runs, after, strict=True)]
        size = max(1.0, float(shifts[0].abs().max()))
        if float((shifts[0] - shifts[1]).abs().max()) <= TOLERANCE * size:
            shift = shifts[0].flatten()
            for carried in carriers:
                leaf = carried.leaf
                if not allowed(value, leaf.tensor):
                    continue
                entries, places, inverse = carried.unique
                amount = shift[places]
                if float((amount[inverse] - shift).abs().max()) > TOLERANCE * size:
                    continue
                used = amount != 0
                entries, places = entries[used], places[used]
                change = changes.get(leaf.tensor)
                if change is not None and bool(change[entries].any()):
                    continue
                return Sink(value, leaf.tensor, entries, places), amount[used]
        if value in self.program.outputs:
            raise Blocked
        return None
