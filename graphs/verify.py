"""The numerical check: random elements of a group must leave the function unchanged in float64."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from graphs.blame import TOLERANCE, blame, relative
from graphs.elements import GroupElement
from graphs.group import SymmetryGroup
from graphs.interpreter import interpret as interpret
from graphs.interpreter import widen
from graphs.program import Op, evaluation_mode


@dataclass(frozen=True)
class Verdict:
    """The result of a check.

    Args:
        passed: whether every element left the function unchanged.
        error: the largest relative difference of outputs met.
        change: the largest relative change of a tensor by any element (0: none of them did anything).
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
            f"the rule behind it is wrong, please report it and verify=False (--no-verify) shows the group."
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
    with double_precision(module) as double:
        tensors = _spread(double, group, generator)
        worst, most, failed = 0.0, 0.0, None
        for number in range(elements):
            inputs = random_inputs(example_inputs, generator, first=number == 0)
            element = group.sample(generator)
            error, change = difference(double, tensors, element, inputs)
            worst, most = max(worst, error), max(most, change)
            if not error <= tolerance:
                failed = failed or inputs
        if failed is None:
            return Verdict(True, worst, most, elements)
        for factor in group.factors:
            single = GroupElement(group, ((factor, factor.sample(generator)),))
            error, _ = difference(double, tensors, single, failed)
            if not error <= tolerance:
                given = [leaf for leaf in pytree.tree_leaves(failed) if isinstance(leaf, Tensor)]
                op = blame(group, {name: tensors[name] for name in group.program.tensors}, single, given)
                return Verdict(False, error, most, elements, factor.name, None if op is None else place(op))
        return Verdict(False, worst, most, elements)


@contextmanager
def double_precision(module: nn.Module) -> Iterator[nn.Module]:
    """A copy of a module in double precision and evaluation mode; tensors it makes are double too."""
    before = torch.get_default_dtype()
    copied = copy.deepcopy(module).double()
    for tensor in (*copied.parameters(), *copied.buffers()):  # `double` leaves complex tensors alone
        tensor.data = widen(tensor.data)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), evaluation_mode(copied):
            yield copied
    finally:
        torch.set_default_dtype(before)


def place(op: Op) -> str:
    """Where an operator stands: its name, its module, and the user's line."""
    where = f"in module {op.module!r} ({op.module_type})" if op.module else "in the root module"
    return f"{op.target} {where}" + (f", {op.line}" if op.line else "")


def difference(
    module: nn.Module, tensors: dict[str, Tensor], element: GroupElement, inputs: Sequence[Any]
) -> tuple[float, float]:
    """Largest relative difference of the outputs, and the largest relative change of a tensor."""
    moved = element.apply(tensors)
    before = outputs(functional_call(module, tensors, tuple(inputs), tie_weights=False))
    after = outputs(functional_call(module, moved, tuple(inputs), tie_weights=False))
    error = max((relative(a, b) for a, b in zip(before, after, strict=True)), default=0.0)
    change = max((relative(tensors[name], moved[name]) for name in tensors), default=0.0)
    return error, change


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


def _spread(module: nn.Module, group: SymmetryGroup, generator: torch.Generator) -> dict[str, Tensor]:
    """The module's tensors; what the group may move is perturbed, so that equal entries (zero biases, unit scales)
    cannot hide an error."""
    tensors: dict[str, Tensor] = {}
    seen: dict[int, Tensor] = {}
    named = (module.named_parameters, module.named_buffers)
    for name, tensor in (entry for part in named for entry in part(remove_duplicate=False)):
        if id(tensor) not in seen:
            value = widen(tensor.detach().clone())
            if name in group.program.tensors and (value.is_floating_point() or value.is_complex()):
                noise = torch.rand(value.shape, generator=generator)
                value = value * (1 + 0.1 * noise) + 0.01 * noise
            seen[id(tensor)] = value
        tensors[name] = seen[id(tensor)]
    return tensors
