"""Running a program op by op in double precision, so that every value in between can be looked at."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from graphs.program import Op, Program, Reference

_WIDE = {torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64,
         torch.complex64: torch.complex128}  # fmt: skip
COLUMNS = 32  # of a strided matrix that are copied at a time
BATCH_NORM = "aten._native_batch_norm_legit_no_training"


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


def call(op: Op, lookup: Callable[[int], Tensor]) -> list[Any]:
    """The outputs of an operator in double precision.

    A view of a tensor whose strides do not allow one is a copy, and batch norm is written out, as torch's own has no
    derivative with respect to the running statistics.

    Args:
        op: what to evaluate.
        lookup: every value that it reads.
    """

    filled = partial(_filled, lookup)
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
