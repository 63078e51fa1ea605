"""Which dimensions of a module's tensors grow with its width, and what each tensor does with them.

With a narrower or wider sibling of the module (its *base*) they are the dimensions whose sizes differ. Without one they
are read off the neuron labels of the traced program: a dimension whose indices some permutation moves is one of
hidden neurons; a base is needed where positions tell hidden neurons apart, as in a single rotary key head. Which of them a
tensor sums over follows from the operator that reads it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from analysis.parametrization.schemes import Role
from graphs.parameter_graph.structure import neurons_of
from graphs.parameter_graph.uses import Use, all_uses
from graphs.program import Program, Reference, trace
from modelzoo.errors import UserError


@dataclass(frozen=True)
class BaseTensor:
    """A tensor of the module of base width.

    Args:
        shape: its sizes.
        scale: root mean square of its initial entries.
    """

    shape: tuple[int, ...]
    scale: float


@dataclass(frozen=True)
class TensorWidth:
    """What a tensor does with width.

    Args:
        names: of the tensor, several if it is tied.
        shape: its sizes.
        role: `input`, `hidden`, `output` or `finite`, by what grows alone: `output` sums over something that grows and
            produces something that does not, as keys and values do that a growing number of query heads share.
        width: dimensions that grow.
        n: width relative to base: of what it sums over (hidden, output) or of what it produces (input).
        scale: root mean square of the entries at base width; None to leave them as they are.
        read_out: for an input tensor that is the output tensor as well (a tied embedding), the value it reads out.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    role: Role
    width: frozenset[int]
    n: float
    scale: float | None
    read_out: int | None = None


def base_tensors(module: nn.Module) -> dict[str, BaseTensor]:
    """Shapes and initial scales of a freshly initialised module of base width, by parameter name."""
    return {
        name: BaseTensor(tuple(tensor.shape), root_mean_square(tensor))
        for name, tensor in module.named_parameters(remove_duplicate=False)
    }


def root_mean_square(tensor: Tensor) -> float:
    """√ mean |entry|²; 0 for no entries."""
    return float(tensor.detach().abs().double().square().mean().sqrt()) if tensor.numel() else 0.0


def tensor_widths(
    module: nn.Module, inputs: Sequence[Any], base: Mapping[str, BaseTensor] | None = None, gain: float = 1.0
) -> tuple[TensorWidth, ...]:
    """The width of every parameter of a module.

    Args:
        module: any module that can be traced.
        inputs: example inputs of one call.
        base: from `base_tensors` of a sibling of another width; None for absolute widths, n = sizes, read off the labels.
        gain: without a base: a tensor that sums over m entries has standard deviation `gain` / √m at n = 1.

    Raises:
        UserError: the base lacks a tensor, or has one of another rank; a tied tensor has two roles that do not go together.
    """
    program = trace(module, inputs)
    return widths_of(program, base, gain)


def widths_of(
    program: Program, base: Mapping[str, BaseTensor] | None = None, gain: float = 1.0
) -> tuple[TensorWidth, ...]:
    """`tensor_widths` of a traced module."""
    tied: dict[int, list[str]] = {}
    for name, value in program.parameters.items():
        tied.setdefault(value, []).append(name)
    growing = labelled_widths(program) if base is None else _different(program, tied, base)
    uses = all_uses(program)
    found = []
    for value, names in tied.items():
        shape, width = program.values[value].shape, growing[value]
        role, use, read_out = _role(names, uses[value], width)
        sizes = base[names[0]].shape if base is not None else tuple(1 if k in width else size for k, size in enumerate(shape))  # fmt: skip
        counted = width & (use.produced if role == "input" else use.contracted) if use else frozenset()
        n = prod(shape[k] for k in counted) / prod(sizes[k] for k in counted)
        scale = _scale(use, sizes, gain) if base is None else base[names[0]].scale
        found.append(TensorWidth(tuple(names), shape, role, width, n, scale, read_out))
    return tuple(found)


def labelled_widths(program: Program) -> dict[int, frozenset[int]]:
    """The dimensions of every parameter along which some index moves under a permutation symmetry."""
    neurons = neurons_of(program)
    labels = neurons.labelling.raw
    found = {}
    for value in dict.fromkeys(program.parameters.values()):
        arrays = labels[value] or ()
        found[value] = frozenset(
            k for k, a in enumerate(arrays) if a is not None and not neurons.fixed[neurons.labelling.neuron[a]].all()
        )
    return found


def _different(
    program: Program, tied: Mapping[int, Sequence[str]], base: Mapping[str, BaseTensor]
) -> dict[int, frozenset[int]]:
    """The dimensions of every parameter whose size differs from the base."""
    found = {}
    for value, names in tied.items():
        shape = program.values[value].shape
        for name in names:
            if name not in base:
                raise UserError(
                    f"base shapes have no tensor {name!r} of this module; take them from a module of the same depth and "
                    f"names that differs in width alone (base_tensors)."
                )
            if len(base[name].shape) != len(shape):
                raise UserError(
                    f"tensor {name!r} has shape {list(shape)} here and {list(base[name].shape)} in the base; "
                    f"take a base that differs in width alone."
                )
        own = base[names[0]].shape
        found[value] = frozenset(k for k, size in enumerate(shape) if size != own[k])
    return found


def _role(names: Sequence[str], uses: Sequence[Use], width: frozenset[int]) -> tuple[Role, Use | None, int | None]:
    """The role of a tensor, the use that shows it, and what it reads out if it is an output tensor besides.

    Raises:
        UserError: a tied tensor has two other roles.
    """
    roles: dict[Role, Use | None] = {}
    for use in uses:
        sums, makes = bool(width & use.contracted), bool(width - use.contracted)
        role: Role = "hidden" if sums and makes else "output" if sums else "input" if makes else "finite"
        roles.setdefault(role, use)
    out = roles.get("output")
    if roles.keys() == {"input", "output"} and out is not None:
        return "input", roles["input"], out.other
    if len(roles) > 1:
        raise UserError(
            f"tensor {names[0]!r} is tied: it is read as {' and as '.join(sorted(roles))}, which scale differently; "
            f"give each place a tensor of its own."
        )
    return *next(iter(roles.items()), ("input" if width else "finite", None)), None


def _scale(use: Use | None, sizes: Sequence[int], gain: float) -> float | None:
    """Standard deviation at n = 1 that keeps activations of order one; None for tensors that are not contracted."""
    if use is None or not use.contracts:
        return None
    if use.kind == "embedding":
        return gain
    return gain / sqrt(prod(size for k, size in enumerate(sizes) if k not in use.produced))


def growing_scores(base: Program, program: Program) -> list[tuple[str, int, int]]:
    """Products of two activations that sum over a dimension that grows: (module path, size in base, size here).

    Scores QKᵀ/√d are of them when heads grow: trained queries and keys correlate, so that their product grows with d
    where the square root takes √d away.
    """
    found = []
    for ours, theirs in zip(_products(program), _products(base), strict=False):
        if ours[1] != theirs[1]:
            found.append((ours[0], theirs[1], ours[1]))
    return found


def _products(program: Program) -> list[tuple[str, int]]:
    """(Module path, size of the sum) of every matrix product of two values that depend on the inputs."""
    live = torch.zeros(len(program.values), dtype=torch.bool)
    live[list(program.inputs)] = True
    found = []
    for op in program.ops:
        if bool(live[list(op.inputs)].any()):
            live[[output for output in op.outputs if output is not None]] = True
        if op.name in ("aten.bmm", "aten.mm") and bool(live[list(op.inputs)].all()):
            left = op.arguments[0]
            assert isinstance(left, Reference)
            found.append((op.module, program.values[left.value].shape[-1]))
    return found
