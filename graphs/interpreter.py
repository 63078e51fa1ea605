"""Running a program op by op in double precision, so that every value in between can be looked at."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from graphs.program import Program, Reference

_WIDE = {torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64,
         torch.complex64: torch.complex128}  # fmt: skip


def widen(tensor: Tensor) -> Tensor:
    """A real or complex tensor in double precision; others as they are."""
    return tensor.to(_WIDE.get(tensor.dtype, tensor.dtype))


def interpret(program: Program, tensors: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> dict[int, Tensor]:
    """Every value of a program by id, in double precision.

    Args:
        program: what to run.
        tensors: its parameters and state buffers by name.
        inputs: its input tensors, in the order of `program.inputs`.
    """
    values = {value: widen(tensor) for value, tensor in program.constants.items()}
    # strided weights would make strided values, which a traced view refuses
    values |= {value: widen(tensors[name]).contiguous() for name, value in program.tensors.items()}
    values |= {value: widen(tensor) for value, tensor in zip(program.inputs, inputs, strict=True)}

    def filled(argument: Any) -> Any:
        if isinstance(argument, Reference):
            return values[argument.value]
        if isinstance(argument, tuple):
            return [filled(entry) for entry in argument]
        return _WIDE.get(argument, argument) if isinstance(argument, torch.dtype) else argument

    for op in program.ops:
        if not op.outputs or all(value in values for value in op.outputs if value is not None):
            continue
        result = op.overload(*map(filled, op.arguments), **{key: filled(entry) for key, entry in op.keywords.items()})
        for value, tensor in zip(op.outputs, result if isinstance(result, list | tuple) else [result], strict=False):
            if value is not None:
                values[value] = tensor
    return values
