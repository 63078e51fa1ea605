"""The numerical check: random elements of a group must leave the function unchanged in float64."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from graphs.elements import GroupElement
from graphs.factors import PermutationFactor
from graphs.group import SymmetryGroup
from graphs.program import Program, Reference, evaluation_mode

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Verdict:
    """The result of a check.

    Args:
        passed: whether every element left the function unchanged.
        error: the largest relative difference of outputs met.
        change: the smallest relative change of the moved tensors (0: the elements did nothing).
        elements: number of random elements.
        blame: the factor that fails on its own, None if none does.
        op: the operator at which its labels and its values part, None if not found.
    """

    passed: bool
    error: float
    change: float
    elements: int
    blame: str | None = None
    op: str | None = None

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        if self.passed:
            return f"{self.elements} random elements leave the function unchanged: relative error {self.error:.1e}"
        who = f"factor {self.blame!r}" if self.blame else "a product of factors"
        where = f" at {self.op}" if self.op else ""
        return (
            f"{who} changes the function{where}: relative error {self.error:.1e}, expected below {TOLERANCE:.0e}; "
            f"the rule behind it is wrong, please report it and pass verify=False to look at the group."
        )


def verify(
    group: SymmetryGroup,
    module: nn.Module,
    example_inputs: Sequence[Any],
    elements: int = 3,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> Verdict:
    """Check a group numerically in double precision.

    Args:
        group: the group of that module.
        module: the module; a double-precision copy is used.
        example_inputs: inputs of the same shapes, types and ranges are drawn at random.
        elements: number of random elements, each with its own random input.
        seed: of elements and inputs.
        tolerance: largest relative difference of the outputs.
    """
    generator = torch.Generator().manual_seed(seed)
    double = copy.deepcopy(module).double()
    with torch.no_grad(), evaluation_mode(double):
        tensors = _spread(double, generator)
        worst, least, failed = 0.0, float("inf"), None
        for number in range(elements):
            inputs = random_inputs(example_inputs, generator, first=number == 0)
            element = group.sample(generator)
            error, change = difference(double, tensors, element, inputs)
            worst, least = max(worst, error), min(least, change)
            if not error <= tolerance:
                failed = failed or (element, inputs)
        if failed is None:
            return Verdict(True, worst, least if group.factors else 0.0, elements)
        for factor in group.factors:
            single = GroupElement(group, ((factor, factor.sample(generator)),))
            error, _ = difference(double, tensors, single, failed[1])
            if not error <= tolerance:
                return Verdict(False, error, least, elements, factor.name, _blame(group, double, tensors, single))
        return Verdict(False, worst, least, elements)


def difference(
    module: nn.Module, tensors: dict[str, Tensor], element: GroupElement, inputs: Sequence[Any]
) -> tuple[float, float]:
    """Largest relative difference of the outputs, and the largest relative change of a tensor."""
    moved = element.apply(tensors)
    before = outputs(functional_call(module, tensors, tuple(inputs)))
    after = outputs(functional_call(module, moved, tuple(inputs)))
    error = max((relative(a, b) for a, b in zip(before, after, strict=True)), default=0.0)
    change = max((relative(tensors[name], moved[name]) for name in tensors), default=0.0)
    return error, change


def relative(before: Tensor, after: Tensor) -> float:
    """max |after − before| / max |before|; NaN counts as infinite unless it stands in both at the same place."""
    if before.numel() == 0:
        return 0.0
    if not (before.is_floating_point() or before.is_complex()):
        return 0.0 if torch.equal(before, after) else float("inf")
    same = torch.nan_to_num(before) == torch.nan_to_num(after)
    gap = torch.where(same & (before.isnan() == after.isnan()), torch.zeros_like(before), after - before).abs()
    error = float(gap.max() / torch.nan_to_num(before).abs().max().clamp_min(1e-300))
    return error if error == error else float("inf")


def outputs(result: Any) -> list[Tensor]:
    """The tensors of a (nested) result."""
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def random_inputs(example_inputs: Sequence[Any], generator: torch.Generator, first: bool = False) -> tuple[Any, ...]:
    """Inputs like the examples: real tensors with the same mean and spread, integers permuted; the first as given."""

    def like(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.is_complex() or leaf.is_floating_point():
            wide = leaf.to(torch.complex128 if leaf.is_complex() else torch.float64)
            if first or not leaf.numel():
                return wide
            noise = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
            return wide.mean() + noise * (wide.std(correction=0) + 1e-3)
        if first or leaf.dtype is torch.bool or leaf.numel() < 2:
            return leaf
        return leaf.reshape(-1)[torch.randperm(leaf.numel(), generator=generator)].reshape(leaf.shape)

    return tuple(pytree.tree_map(like, tuple(example_inputs)))


def _spread(module: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """The module's tensors, slightly perturbed so that equal entries (zero biases, unit scales) cannot hide an error."""
    tensors: dict[str, Tensor] = {}
    seen: dict[int, Tensor] = {}
    for name, tensor in [*module.named_parameters(remove_duplicate=False), *module.named_buffers()]:
        if id(tensor) not in seen:
            value = tensor.detach().clone()
            if value.is_floating_point() or value.is_complex():
                noise = torch.rand(value.shape, generator=generator, dtype=torch.float64)
                value = value * (1 + 0.1 * noise) + 0.01 * noise
            seen[id(tensor)] = value
        tensors[name] = seen[id(tensor)]
    return tensors


def _blame(group: SymmetryGroup, module: nn.Module, tensors: dict[str, Tensor], element: GroupElement) -> str | None:
    """The first operator whose value does not move as its labels say, for an element of one permutation factor."""
    factor, parameters = element.word[0]
    if not isinstance(factor, PermutationFactor):
        return None
    back = factor.label_map(factor.inverse(parameters))
    example = [torch.zeros(group.program.values[value].shape, dtype=group.program.values[value].dtype) for value in group.program.inputs]  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    inputs = [x + torch.rand(x.shape, generator=generator) if x.is_floating_point() else x for x in example]
    plain = interpret(group.program, tensors, inputs)
    moved = interpret(group.program, element.apply(tensors), inputs)
    for op in group.program.ops:
        for value in op.outputs:
            labels = None if value is None else group.labelling.raw[value]
            if value is None or labels is None or value not in plain:
                continue
            expected = plain[value]
            for axis, array in enumerate(labels):
                if array is not None and array.size == array.shape[axis]:
                    flat = array.ravel()
                    order = np.argsort(flat)
                    index = order[np.searchsorted(flat, back[flat], sorter=order)]
                    expected = expected.index_select(axis, torch.as_tensor(index))
            independent = all(a is None or a.size == a.shape[k] for k, a in enumerate(labels))
            if independent and relative(expected, moved[value]) > TOLERANCE:
                return f"{op.target} in module {op.module!r}" + (f" ({op.line})" if op.line else "")
    return None


def interpret(program: Program, tensors: dict[str, Tensor], inputs: Sequence[Tensor]) -> dict[int, Tensor]:
    """Run a program op by op in double precision; every value by id."""

    def widen(tensor: Tensor) -> Tensor:
        return tensor.double() if tensor.is_floating_point() else tensor

    values = {value: widen(tensor) for value, tensor in program.constants.items()}
    values |= {value: tensors[name] for name, value in program.tensors.items()}
    values |= {value: widen(tensor) for value, tensor in zip(program.inputs, inputs, strict=True)}

    def filled(argument: Any) -> Any:
        if isinstance(argument, Reference):
            return values[argument.value]
        if isinstance(argument, tuple):
            return [filled(entry) for entry in argument]
        return torch.float64 if argument is torch.float32 else argument

    for op in program.ops:
        if not op.outputs or all(value in values for value in op.outputs if value is not None):
            continue
        result = op.overload(*map(filled, op.arguments), **{key: filled(entry) for key, entry in op.keywords.items()})
        for value, tensor in zip(op.outputs, result if isinstance(result, list | tuple) else [result], strict=False):
            if value is not None:
                values[value] = tensor
    return values
