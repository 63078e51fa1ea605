"""Entries that no output reads: imaginary parts that a real transform drops, weights behind a mask.

The entries are guessed from a gradient, which is exactly 0 there, and then followed like any other shift: only
operators that are known to drop part of what they are given may swallow one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from graphs.factors import Factor
from graphs.finders import Context, finder
from graphs.interpreter import interpret, widen
from graphs.program import Program, Value
from graphs.scalings.leaves import Leaf
from graphs.scalings.shifts import MASKS, PARTIAL, TRIANGLES, Shifts
from graphs.scalings.translations import TranslationFactor


@finder(45)
def unread(context: Context) -> Sequence[Factor]:
    """The real and the imaginary entries of every tensor that no output depends on."""
    program = context.program
    shifts = context.shifts
    names = [name for name in shifts.tied if _may_drop(program, program.values[program.tensors[name]])]
    generator = torch.Generator().manual_seed(6)
    found: list[Factor] = []
    for name, gradient in _gradients(shifts, names).items():
        pieces: dict[str, tuple[Tensor, complex]] = {"": (gradient, 1.0)}
        if gradient.is_complex():
            pieces = {"real part of ": (gradient.real, 1.0), "imaginary part of ": (gradient.imag, 1j)}
        for part, (slope, step) in pieces.items():
            entries = (slope.flatten() == 0).nonzero().flatten()
            if not len(entries):
                continue
            value = program.tensors[name]
            leaf = Leaf(name, value, program.values[value].shape, (len(entries),), entries=entries)
            shift = torch.randn(len(entries), generator=generator, dtype=torch.float64) * step
            if shifts.follow(leaf, shift, lambda tensor: False) is not None:
                found.append(TranslationFactor(f"unread {part}{name}", leaf, (), None, [], shifts, step))
    return found


def _may_drop(program: Program, tensor: Value) -> bool:
    """Whether there is an operator that could leave out some numbers of a tensor."""
    if tensor.dtype.is_complex:
        return any(op.name in PARTIAL for op in program.ops)
    return tensor.dtype.is_floating_point and any(
        op.name in TRIANGLES or (op.name in MASKS and any(value in program.constants for value in op.inputs))
        for op in program.ops
        if tensor.id in op.inputs
    )


def _gradients(shifts: Shifts, names: Sequence[str]) -> dict[str, Tensor]:
    """Sizes of the slopes of random combinations of all outputs at two random inputs, by tensor."""
    program = shifts.program
    if not names:
        return {}
    leaves = {name: widen(shifts.tensors[name]).clone().requires_grad_() for name in names}
    tensors = {**shifts.tensors, **{tied: leaf for name, leaf in leaves.items() for tied in shifts.tied[name]}}
    total = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    generator = torch.Generator().manual_seed(7)
    for run in shifts.runs:
        values = interpret(program, tensors, [run[value] for value in program.inputs])
        outputs = [values[value] for value in program.outputs if values[value].requires_grad]
        flat = torch.cat([torch.view_as_real(y).flatten() if y.is_complex() else y.flatten() for y in outputs])
        score = flat @ torch.randn(len(flat), generator=generator, dtype=torch.float64)
        slopes = torch.autograd.grad(score, list(leaves.values()), allow_unused=True)
        for sizes, slope in zip(total.values(), slopes, strict=True):
            if slope is not None:
                sizes += torch.complex(slope.real.abs(), slope.imag.abs()) if slope.is_complex() else slope.abs()
    return total
