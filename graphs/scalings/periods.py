"""Whole periods: sin(ω (x + b)) is the same for b + 2π/ω, so every such bias carries the integers.

These groups are discrete and infinite: they count neither in the dimension nor in the order of a group.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from graphs.factors import Factor
from graphs.finders import Context, finder
from graphs.program import Op, Program, Reference
from graphs.scalings.leaves import MOVES, Leaf
from graphs.scalings.shifts import PERIODIC, Shifts
from graphs.scalings.translations import TranslationFactor, part_name

FARTHEST = 2  # periods that a sampled element moves a bias by
LARGEST_RATIO = 64  # of the frequencies of two waves that have a period in common


class PeriodFactor(TranslationFactor):
    """Adds whole multiples of a period to every entry of a bias; an element is a vector of whole numbers `[..., k]`.

    Args:
        name: unique in the group.
        leaf: the part of a tensor that is shifted.
        period: 2π/ω.
        shifts: the program and one run of it.
    """

    def __init__(self, name: str, leaf: Leaf, period: float, shifts: Shifts) -> None:
        super().__init__(name, leaf, (), None, [], shifts, period)
        self.dimension = 0
        self.kind = "Z" + (f"^{self.count}" if self.count > 1 else "")

    def sample(self, generator: torch.Generator, scale: float = 1.0, models: int | None = None) -> Tensor:
        shape = (self.count,) if models is None else (models, self.count)
        return torch.randint(-FARTHEST, FARTHEST + 1, shape, generator=generator).to(torch.float64)

    def conjugate(self, parameters: Tensor, by: Factor, other: Tensor) -> Tensor | None:
        found = super().conjugate(parameters, by, other)
        if found is None or float((found - found.round()).abs().max()) > 1e-9:
            return None
        return found.round()

    def nearest(self, tensor: Tensor) -> Tensor:
        """The element that takes every entry of the tensor into half a period around zero."""
        return -(tensor.detach().double().flatten()[self.leaf.positions.flatten()] / self.step).round()


@finder(50)
def periods(context: Context) -> Sequence[Factor]:
    """Every part of a tensor that is only met inside sines and cosines, times a constant."""
    program = context.program
    waves = [op for op in program.ops if op.name in PERIODIC and op.output not in program.constants]
    if not waves:
        return []
    shifts = context.shifts
    generator = torch.Generator().manual_seed(4)
    common: dict[Leaf, float] = {}
    for op in waves:
        value, factor = _unscaled(program, op)
        for leaf in (each.leaf for each in shifts.carried(value)) if factor else ():
            period = abs(2 * math.pi / factor)
            ratio = Fraction(period / common.get(leaf, period)).limit_denominator(LARGEST_RATIO)
            common[leaf] = period * ratio.denominator
    found = []
    for leaf, period in common.items():
        whole = torch.randint(1, 5, leaf.shape, generator=generator).to(torch.float64)
        if shifts.follow(leaf, whole * period, lambda tensor: False) is not None:
            found.append(PeriodFactor(f"period of {part_name(leaf)}", leaf, period, shifts))
    return found


def _unscaled(program: Program, wave: Op) -> tuple[int, float]:
    """The value that a constant is multiplied with before a wave, and that constant."""
    value, factor = wave.inputs[0], 1.0
    while (producer := program.values[value].producer) is not None:
        op = program.ops[producer]
        if op.name in MOVES:
            value = op.inputs[0]
            continue
        numbers = [_number(program, argument) for argument in op.arguments[:2]]
        known = [number for number in numbers if number is not None]
        if op.name not in ("aten.mul", "aten.div") or len(known) != 1 or (op.name == "aten.div" and numbers[1] is None):
            break
        factor = factor * known[0] if op.name == "aten.mul" else factor / known[0]
        value = next(a.value for a, number in zip(op.arguments, numbers, strict=False) if number is None)
    return value, factor


def _number(program: Program, argument: object) -> float | None:
    """A constant with one value, as a number."""
    if isinstance(argument, int | float):
        return float(argument)
    tensor = program.constants.get(argument.value) if isinstance(argument, Reference) else None
    if tensor is None or tensor.is_complex() or not tensor.numel() or bool((tensor != tensor.flatten()[0]).any()):
        return None
    return float(tensor.flatten()[0])
