"""Functional dimension: how many directions in parameter space change the function, and how many symmetries are hidden.

The functional dimension at θ is the rank of the Jacobian of (outputs on many inputs) with respect to θ. What is left,

    hidden = number of parameters − functional dimension − dimension of the orbit of the inferred group,

counts the continuous symmetries at θ that the inferred group does not explain ("Functional dimension of feedforward ReLU
neural networks", Grigsby, Lindsey, Meyerhoff and Wu, 2022; "Hidden symmetries of ReLU networks", Grigsby, Lindsey and
Rolnick, 2023). A rank on finitely many inputs can only be too small, so the functional dimension is a lower bound and
the number of hidden symmetries an upper one; the number of inputs is doubled until the rank stands still.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from graphs.group import SymmetryGroup
from graphs.orbit import orbit_dimension
from graphs.program import Program, evaluation_mode, trace
from graphs.verify import outputs, random_inputs
from modelzoo.errors import UserError

SCALES = (1.0, 0.3, 3.0, 10.0)  # inputs are drawn at several scales: bends far out are bends too
MAX_PARAMETERS = 4000
FIRST_ROWS = 1024  # at least: with fewer a rank may stand still for one doubling and then rise
RANK_TOLERANCE = 1e-9  # relative to the largest singular value


@dataclass(frozen=True)
class FunctionalDimension:
    """The rank of the parameter Jacobian at one point of parameter space.

    Args:
        parameters: number of real scalars that the function may depend on.
        rank: the functional dimension, a lower bound.
        rows: outputs over all inputs, the rows of the Jacobian.
        inputs: number of inputs drawn.
        stable: whether the last doubling of the inputs left the rank as it was.
        gap: ratio of the smallest singular value that counts to the largest that does not (inf: all count, or the rest is 0).
        ranks: `(inputs, rank)` after every doubling.
        spectrum: singular values of the Jacobian at all inputs, falling.
    """

    parameters: int
    rank: int
    rows: int
    inputs: int
    stable: bool
    gap: float
    ranks: tuple[tuple[int, int], ...]
    spectrum: tuple[float, ...]

    @property
    def reached(self) -> int:
        """The number of inputs from which on the rank was what it is."""
        return next(inputs for inputs, rank in self.ranks if rank == self.rank)

    @property
    def how(self) -> str:
        """How the bound came about, in a few words."""
        steady = "" if self.stable else ", still rising"
        return f"at least; reached at {self.reached} of {self.inputs} inputs{steady}, spectral gap {self.gap:.0e}"


@dataclass(frozen=True)
class Completeness:
    """What the inferred group explains of the directions that do not change the function.

    Args:
        functional: the functional dimension.
        dimension: of the inferred group.
        orbit: dimension of its orbit; smaller where part of the group leaves the weights as they are.
        generic: whether the weights were perturbed to a generic point first.
    """

    functional: FunctionalDimension
    dimension: int
    orbit: int
    generic: bool

    @property
    def hidden(self) -> int:
        """Continuous symmetries at this point that the group does not explain (an upper bound)."""
        return self.functional.parameters - self.functional.rank - self.orbit

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        found = self.functional
        fixed = f" of which {self.dimension - self.orbit} fix this point" if self.orbit < self.dimension else ""
        what = "the inferred group is complete" if self.hidden == 0 else f"{self.hidden} hidden symmetries"
        return (
            f"{found.parameters} parameters − functional dimension {found.rank} ({found.how}) "
            f"− group dimension {self.dimension}{fixed} = {self.hidden}: {what}"
        )


def completeness(
    group: SymmetryGroup, module: nn.Module, example_inputs: Sequence[Any], generic: bool = True, **options: Any
) -> Completeness:
    """Count the symmetries that a group does not explain.

    Args:
        group: the group of that module.
        module: the module.
        example_inputs: inputs of the same shapes are drawn at several scales.
        generic: perturb the weights first, so that fresh initialisations (zero biases) do not look special; False
            measures at the module's own weights.
        options: of `functional_dimension`.

    Raises:
        UserError: the module has too many parameters.
    """
    found = functional_dimension(module, example_inputs, program=group.program, generic=generic, **options)
    generator = torch.Generator().manual_seed(options.get("seed", 0)) if generic else None
    tensors = _tensors(copy.deepcopy(module).double(), generator)  # where the functional dimension was measured
    return Completeness(found, group.dimension, orbit_dimension(group, tensors), generic)


def functional_dimension(
    module: nn.Module,
    example_inputs: Sequence[Any],
    *,
    program: Program | None = None,
    generic: bool = False,
    max_parameters: int = MAX_PARAMETERS,
    max_inputs: int | None = None,
    seed: int = 0,
) -> FunctionalDimension:
    """The rank of the Jacobian of all outputs on many inputs with respect to parameters and state buffers, in float64.

    Args:
        module: the module; a double-precision copy is used.
        example_inputs: inputs of the same shapes are drawn at several scales.
        program: the traced module, if it is at hand.
        generic: perturb the weights first.
        max_parameters: refuse larger modules: the cost is cubic.
        max_inputs: stop doubling there; None for sixty-four rows a parameter.
        seed: of inputs and perturbation.

    Raises:
        UserError: the module has more than `max_parameters` parameters.
    """
    program = program or trace(module, example_inputs)
    generator = torch.Generator().manual_seed(seed)
    double = copy.deepcopy(module).double()
    with evaluation_mode(double):
        tensors = _tensors(double, generator if generic else None)
        leaves = _leaves(program, tensors)
        count = sum(real_size(leaf) for leaf in leaves.values())
        if count > max_parameters:
            raise UserError(
                f"{program.module_name} has {count:,} parameters; the functional dimension costs their cube and is "
                f"computed up to {max_parameters:,}; take a smaller member of the family or raise max_parameters."
            )
        rows = Jacobian(double, tensors, leaves, program)
        triangle = torch.zeros(0, count, dtype=torch.float64)
        rank, drawn, height, stable, target = -1, 0, 0, False, max(2 * count, FIRST_ROWS)
        ranks: list[tuple[int, int]] = []
        limit = max_inputs or 0
        while True:
            pending, waiting = [triangle], 0
            while height < target:
                scale = SCALES[drawn % len(SCALES)]
                inputs = random_inputs(example_inputs, generator, first=drawn == 0)
                pending.append(rows(_scaled(inputs, scale if drawn else 1.0)))
                height, drawn, waiting = height + len(pending[-1]), drawn + 1, waiting + len(pending[-1])
                last = height >= target or (max_inputs is not None and drawn >= limit)
                if waiting >= 2 * count or last:  # a factorization costs the cube, however few rows are new
                    pending, waiting = [torch.linalg.qr(torch.cat(pending), mode="r")[1]], 0
                if last:
                    break
            (triangle,) = pending
            values = torch.linalg.svdvals(triangle).numpy()
            now, gap = numerical_rank(values)
            stable, rank = now == rank, now
            ranks.append((drawn, rank))
            if stable or now == count or (max_inputs and drawn >= limit) or height >= max(64 * count, 4 * FIRST_ROWS):
                return FunctionalDimension(
                    count, rank, height, drawn, stable or now == count, gap, tuple(ranks), tuple(values.tolist())
                )
            target = 2 * height


def numerical_rank(values: np.ndarray[Any, Any], tolerance: float = RANK_TOLERANCE) -> tuple[int, float]:
    """How many singular values count, and the ratio across the cut."""
    if not len(values) or values[0] == 0:
        return 0, float("inf")
    rank = int((values > tolerance * values[0]).sum())
    rest = values[rank] if rank < len(values) else 0.0
    return rank, float(values[rank - 1] / rest) if rest > 0 else float("inf")


def real_size(tensor: Tensor) -> int:
    """Number of real scalars of a tensor."""
    return tensor.numel() * (2 if tensor.is_complex() else 1)


def _tensors(module: nn.Module, generator: torch.Generator | None) -> dict[str, Tensor]:
    """All tensors by name, tied ones shared; moved to a generic point near by if a generator is given."""
    found: dict[int, Tensor] = {}
    names: dict[str, Tensor] = {}
    for name, tensor in [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]:
        if id(tensor) not in found:
            value = tensor.detach().clone()
            if generator is not None and (value.is_floating_point() or value.is_complex()):
                noise = torch.rand(value.shape, generator=generator, dtype=torch.float64)  # variances stay positive
                value = value * (1 + 0.1 * noise) + 0.05 * noise
            found[id(tensor)] = value
        names[name] = found[id(tensor)]
    return names


def _leaves(program: Program, tensors: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """One tensor a value of the program: tied names share it."""
    return {value: tensors[name].detach().requires_grad_() for name, value in program.tensors.items()}


def _scaled(inputs: Sequence[Any], scale: float) -> tuple[Any, ...]:
    return tuple(x * scale if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)


class _WrittenOutBatchNorm(TorchFunctionMode):
    """Batch norm by its formula: torch does not differentiate its own by the running statistics."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not nn.functional.batch_norm:
            return func(*args, **(kwargs or {}))
        return _batch_norm(*args, **(kwargs or {}))


def _batch_norm(
    source: Tensor, mean: Tensor | None, variance: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    if training or mean is None or variance is None:
        return nn.functional.batch_norm(source, mean, variance, weight, bias, training, momentum, eps)
    tail = [1] * (source.ndim - 2)
    scaled = (source - mean.view(-1, *tail)) * (variance + eps).rsqrt().view(-1, *tail)
    scaled = scaled if weight is None else scaled * weight.view(-1, *tail)
    return scaled if bias is None else scaled + bias.view(-1, *tail)


class Jacobian:
    """Rows of the parameter Jacobian, one an output scalar.

    Args:
        module: in double precision.
        tensors: all its tensors by name.
        leaves: the tensors to differentiate by, by value id of the program.
        program: tells which names are tied.
        chunk: rows computed at once.
    """

    def __init__(
        self, module: nn.Module, tensors: Mapping[str, Tensor], leaves: Mapping[int, Tensor], program: Program,
        chunk: int = 64,
    ) -> None:  # fmt: skip
        self.leaves = list(leaves.values())
        self.chunk = chunk
        state = {**tensors, **{name: leaves[value] for name, value in program.tensors.items()}}
        self.call: Callable[..., Any] = lambda inputs: functional_call(module, state, inputs, tie_weights=False)

    def __call__(self, inputs: Sequence[Any]) -> Tensor:
        """`[output scalars, parameters]` at some inputs; a complex output gives two rows, a complex parameter two columns."""
        with _WrittenOutBatchNorm():
            made = [out for out in outputs(self.call(tuple(inputs))) if out.requires_grad]
        flat = torch.cat([torch.view_as_real(out).flatten() if out.is_complex() else out.flatten() for out in made])
        found = []
        for start in range(0, len(flat), self.chunk):
            size = min(self.chunk, len(flat) - start)
            cotangents = torch.zeros(size, len(flat), dtype=flat.dtype)
            cotangents[torch.arange(size), start + torch.arange(size)] = 1
            gradients = torch.autograd.grad(
                flat, self.leaves, cotangents, is_grads_batched=True, retain_graph=True, allow_unused=True
            )
            columns = [
                torch.zeros(size, real_size(leaf), dtype=torch.float64)
                if gradient is None
                else (torch.view_as_real(gradient) if gradient.is_complex() else gradient).reshape(size, -1)
                for leaf, gradient in zip(self.leaves, gradients, strict=True)
            ]
            found.append(torch.cat(columns, 1))
        return torch.cat(found)
