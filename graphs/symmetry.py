"""The public entry: the parameter symmetry group of any torch module."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from graphs.factors import AxisMap, Factor, PermutationFactor
from graphs.finders import Context, finders
from graphs.group import SymmetryGroup
from graphs.labels import label
from graphs.permutations import Structure, read
from graphs.program import Program, trace
from graphs.verify import verify as check
from modelzoo.errors import UserError


def symmetry(
    module: nn.Module, example_inputs: Sequence[Any], verify: bool = True, strict: bool = False
) -> SymmetryGroup:
    """The parameter symmetry group of a module.

    Args:
        module: any module that `torch.export` takes; it is left as it is.
        example_inputs: the positional arguments of one call.
        verify: check in float64 that random elements leave the function unchanged on random inputs.
        strict: raise for an operator without a rule instead of fixing what it touches.

    Returns:
        The group; `group.verdict` is the result of the check.

    Raises:
        UserError: `torch.export` refuses the module; `strict` and an operator has no rule; or the check fails, with
            the factor and the operator that are to blame.
    """
    group = infer(trace(module, example_inputs), strict)
    if not verify:
        return group
    verdict = check(group, module, example_inputs)
    if not verdict.passed:
        raise UserError(verdict.sentence)
    return replace(group, verdict=verdict)


def infer(program: Program, strict: bool = False) -> SymmetryGroup:
    """The symmetry group of a program, unchecked."""
    group, axes = _permutation_group(program, strict)
    permutations = tuple(factor for factor in group.factors if isinstance(factor, PermutationFactor))
    context = Context(program, group.labelling, group.structure, axes, permutations)
    found: list[Factor] = [factor for finder in finders() for factor in finder(context)]
    absorbed = {name for factor in found for name in factor.absorbs}
    kept = [factor for factor in permutations if factor.name not in absorbed]
    return replace(group, factors=(*kept, *found))


def permutation_group(program: Program, strict: bool = False) -> SymmetryGroup:
    """The permutation part alone of a program's symmetry group, unchecked."""
    return _permutation_group(program, strict)[0]


def _permutation_group(program: Program, strict: bool) -> tuple[SymmetryGroup, AxisMap]:
    labelling = label(program, strict)
    structure = read(labelling.algebra)
    notes = []
    if len(structure.stuck):
        notes.append(f"{len(structure.stuck)} labels have relations that are no product of symmetric groups: fixed")
    axes = AxisMap(labelling)
    factors = permutation_factors(structure, axes)
    return SymmetryGroup(program, labelling, structure, factors, notes=tuple(notes)), axes


def permutation_factors(structure: Structure, axes: AxisMap) -> tuple[PermutationFactor, ...]:
    """One factor for every level that moves a parameter, named after the first dimension it moves."""
    factors: list[PermutationFactor] = []
    taken: dict[str, int] = {}
    for index in range(len(structure.levels)):
        factor = PermutationFactor("", index, structure, axes)
        if not factor.slots:
            continue
        rows = [slot for slot in factor.slots if slot.dims == (0,)] or list(factor.slots)
        outer = any(other.parent == index for other in structure.levels)
        name = f"{rows[0]} blocks" if outer else str(rows[0])
        taken[name] = taken.get(name, 0) + 1
        factor.name = name if taken[name] == 1 else f"{name} #{taken[name]}"
        factors.append(factor)
    return tuple(factors)
