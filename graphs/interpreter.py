"""Running a program op by op in double precision, so that every value in between can be looked at."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from graphs.program import Op, Program, Reference

_WIDE = {torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64,
         torch.complex64: torch.complex128}  # fmt: skip
COLUMNS = 32  # of a strided matrix that are copied at a time
STRETCHES = 3  # of a run that are kept
TURNS = frozenset(("aten.t", "aten.permute", "aten.transpose"))  # they only reorder dimensions,
VIEWS = TURNS | {"aten.expand", "aten.unsqueeze"}  # and these copy nothing either
BATCH_NORM = "aten._native_batch_norm_legit_no_training"


@dataclass(frozen=True)
class Shifted:
    """A large tensor with a shift that has not been added: `base + shift / gain`, a few columns at a time in a product.

    Args:
        base: the tensor.
        shift: expanded to its shape.
        gain: likewise, None for 1.
    """

    base: Tensor
    shift: Tensor
    gain: Tensor | None = None

    def total(self) -> Tensor:
        """The sum, along expanded dimensions computed once."""
        once, shape = self, self.base.shape
        for d, size in enumerate(shape):
            if size > 1 and all(part is None or part.stride(d) == 0 for part in (self.base, self.shift, self.gain)):
                once = once.each(lambda part, d=d: part.narrow(d, 0, 1))  # type: ignore[misc]
        return (once.base + (once.shift if once.gain is None else once.shift / once.gain)).expand(shape)

    def each(self, function: Callable[[Tensor], Tensor]) -> "Shifted":
        """A function that does not compute, of all three."""
        return Shifted(function(self.base), function(self.shift), None if self.gain is None else function(self.gain))

    def columns(self) -> Iterator[Tensor]:
        """The sum, some columns after others."""
        for start in range(0, self.base.shape[-1], COLUMNS):
            yield self.each(lambda part, start=start: part[..., start : start + COLUMNS]).total()  # type: ignore[misc]


def widen(tensor: Tensor) -> Tensor:
    """A real or complex tensor in double precision; others as they are."""
    return tensor.to(_WIDE.get(tensor.dtype, tensor.dtype))


def _filled(lookup: Callable[[int], Tensor], argument: Any) -> Any:
    """An argument of an operator with tensors in place of references."""
    if isinstance(argument, Reference):
        return lookup(argument.value)
    if isinstance(argument, tuple):
        return [_filled(lookup, entry) for entry in argument]
    return _WIDE.get(argument, argument) if isinstance(argument, torch.dtype) else argument


def call(op: Op, lookup: Callable[[int], Tensor | Shifted]) -> list[Any]:
    """The outputs of an operator in double precision.

    A view of a tensor whose strides do not allow one is a copy, and batch norm is written out, as torch's own has no
    derivative with respect to the running statistics.

    Args:
        op: what to evaluate.
        lookup: every value that it reads.
    """
    if op.name in VIEWS and isinstance(source := lookup(op.inputs[0]), Shifted):
        return [source.each(lambda part: call(op, lambda _: part)[0])]
    if op.name == "aten.view" and isinstance(source := lookup(op.inputs[0]), Shifted) and (
        tuple(source.base.shape) == tuple(op.arguments[1])
    ):  # fmt: skip
        return [source]
    if op.name in ("aten.mm", "aten.bmm", "aten.addmm") and not op.keywords:
        *others, right = (lookup(argument.value) for argument in op.arguments)
        if isinstance(right, Shifted) and (right.base.ndim == 2 or right.base.stride(0) == 0):
            one = right if right.base.ndim == 2 else right.each(lambda part: part[0])  # one matrix for all
            *summand, left = (other.total() if isinstance(other, Shifted) else other for other in others)
            product = torch.cat([left @ part for part in one.columns()], -1)
            return [summand[0] + product if summand else product]

    def total(value: int) -> Tensor:
        given = lookup(value)
        return given.total() if isinstance(given, Shifted) else given

    filled = partial(_filled, total)
    if op.name in ("aten.view", "aten._unsafe_view"):
        return [filled(op.arguments[0]).reshape(op.arguments[1])]
    if op.name == BATCH_NORM:
        x, weight, bias, mean, variance, _, epsilon = map(filled, op.arguments)
        wide = (-1, *[1] * (x.ndim - 2))
        scale = (variance + epsilon).rsqrt() if weight is None else weight * (variance + epsilon).rsqrt()
        shifted = (x - mean.reshape(wide)) * scale.reshape(wide)
        return [shifted if bias is None else shifted + bias.reshape(wide), None, None]
    if op.name in ("aten.mm", "aten.bmm", "aten.addmm") and not op.keywords:
        *summand, left, right = map(filled, op.arguments)
        if right.ndim == 3 and len(right) and right.stride(0) == 0:  # one matrix for all
            right = right[0]
        if right.ndim == 2 and not (right.is_contiguous() or right.mT.is_contiguous()):
            # torch would copy all of it, and all the more if it overlaps itself
            found = torch.cat([left @ part for part in right.split(COLUMNS, -1)], -1)
            return [summand[0] + found if summand else found]
    result = op.overload(*map(filled, op.arguments), **{key: filled(entry) for key, entry in op.keywords.items()})
    return list(result) if isinstance(result, list | tuple) else [result]


def interpret(program: Program, tensors: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> dict[int, Tensor]:
    """Every value of a program by id, in double precision.

    Args:
        program: what to run.
        tensors: its parameters and state buffers by name; they may be strided.
        inputs: its input tensors, in the order of `program.inputs`.
    """
    values = {value: widen(tensor) for value, tensor in program.constants.items()}
    values |= {value: widen(tensors[name]) for name, value in program.tensors.items()}
    values |= {value: widen(tensor) for value, tensor in zip(program.inputs, inputs, strict=True)}
    for op in program.ops:
        if not op.outputs or all(value in values for value in op.outputs if value is not None):
            continue
        for value, tensor in zip(op.outputs, call(op, values.__getitem__), strict=False):
            if value is not None and tensor is not None:
                values[value] = tensor
    return values


class Run:
    """Every value of a program by id, in double precision, of which only some are kept.

    The operators are taken in about √n stretches. Kept are the values that one stretch reads of another, and all of the
    stretches that were asked for last; the others are computed again, so that a run of a deep network takes little memory.

    Args:
        program: what to run.
        tensors: its parameters and state buffers by name; they may be strided.
        inputs: its input tensors, in the order of `program.inputs`.
    """

    def __init__(self, program: Program, tensors: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> None:
        self._program = program
        self._length = max(1, math.isqrt(len(program.ops)))
        self._kept = {value: widen(tensor) for value, tensor in program.constants.items()}
        self._kept |= {value: widen(tensors[name]) for name, value in program.tensors.items()}
        self._kept |= {value: widen(tensor) for value, tensor in zip(program.inputs, inputs, strict=True)}
        self._recent: dict[int, dict[int, Tensor]] = {}
        read = {value: self._stretch(op.index) for op in program.ops for value in op.inputs}  # where last
        for stretch in range(self._stretch(len(program.ops) - 1) + 1):
            for value, tensor in self._values(stretch).items():
                if read.get(value, stretch) > stretch:
                    self._kept[value] = tensor

    def _stretch(self, index: int) -> int:
        return index // self._length

    def _values(self, stretch: int) -> dict[int, Tensor]:
        """What the operators of a stretch compute."""
        if stretch in self._recent:
            self._recent[stretch] = self._recent.pop(stretch)  # asked for last
            return self._recent[stretch]
        found: dict[int, Tensor] = {}

        def lookup(value: int) -> Tensor:
            return found[value] if value in found else self._kept[value]

        for op in self._program.ops[stretch * self._length : (stretch + 1) * self._length]:
            if not op.outputs or all(value in self._kept for value in op.outputs if value is not None):
                continue
            for value, tensor in zip(op.outputs, call(op, lookup), strict=False):
                if value is not None and tensor is not None:
                    found[value] = tensor
        self._recent[stretch] = found
        if len(self._recent) > STRETCHES:
            del self._recent[next(iter(self._recent))]
        return found

    def __getitem__(self, value: int) -> Tensor:
        if value in self._kept:
            return self._kept[value]
        producer = self._program.values[value].producer
        if producer is None:
            raise KeyError(value)
        return self._values(self._stretch(producer))[value]
