"""The Hessian, the generalised Gauss–Newton matrix and the empirical Fisher matrix of a loss, as linear operators.

H = ∇² L; GGN = (1/N) Σ_n J_nᵀ (∇²_f ℓ_n) J_n, which for cross entropy and squared error is the Fisher matrix of the model;
empirical Fisher = (1/N) Σ_n ∇ℓ_n ∇ℓ_nᵀ. Products cost a few backward passes; no matrix is ever made.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp, vmap

from graphs.program import evaluation_mode
from modelzoo.errors import UserError

Kind = Literal["hessian", "ggn", "fisher"]
KINDS: tuple[Kind, ...] = ("hessian", "ggn", "fisher")
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """A model, data and a loss that is a mean over samples.

    Args:
        module: the model, in evaluation mode.
        parameters: by name, the point at which the curvature is taken.
        inputs: `[N, ...]` each.
        targets: `[N, ...]`.
        loss: `(outputs, targets) -> scalar`.
    """

    module: nn.Module
    parameters: Mapping[str, Tensor]
    inputs: tuple[Tensor, ...]
    targets: Tensor
    loss: Loss

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(tensor.numel() for tensor in self.parameters.values())

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """A vector `[P]` as tensors by name."""
        parts = vector.split([tensor.numel() for tensor in self.parameters.values()])
        return {name: part.view_as(self.parameters[name]) for name, part in zip(self.parameters, parts, strict=True)}

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Tensors by name as a vector."""
        return torch.cat([tensors[name].reshape(-1) for name in self.parameters])

    def outputs(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The model's outputs `[N, ...]`."""
        with evaluation_mode(self.module):
            return functional_call(self.module, dict(parameters), self.inputs)

    def losses(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The loss of every sample, `[N]`."""
        return vmap(lambda y, t: self.loss(y[None], t[None]))(self.outputs(parameters), self.targets)

    def value(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The mean loss."""
        return self.loss(self.outputs(parameters), self.targets)


def problem(module: nn.Module, inputs: Sequence[Tensor], targets: Tensor, loss: Loss, double: bool = True) -> Problem:
    """The problem of a module at its own parameters.

    Args:
        module: it is left as it is; buffers stay fixed.
        inputs: `[N, ...]` each.
        targets: `[N, ...]`.
        loss: a mean over samples.
        double: whether to compute in double precision.

    Raises:
        UserError: a parameter is complex.
    """
    if any(p.is_complex() for p in module.parameters()):
        raise UserError(f"{type(module).__name__!r} has complex parameters, for which curvature is not defined here; choose another model.")  # fmt: skip
    copied = copy.deepcopy(module)
    if double:
        copied = copied.double()
        inputs = [x.double() if x.is_floating_point() else x for x in inputs]
        targets = targets.double() if targets.is_floating_point() else targets
    copied.requires_grad_(False)
    return Problem(copied, {name: p.detach() for name, p in copied.named_parameters()}, tuple(inputs), targets, loss)


class CurvatureOperator(ABC):
    """A symmetric matrix `[P, P]` that is only ever multiplied with.

    Args:
        of: model, data and loss.
    """

    def __init__(self, of: Problem) -> None:
        self.of = of
        self.shape = (of.size, of.size)
        self.dtype = next(iter(of.parameters.values())).dtype

    @abstractmethod
    def product(self, vector: Tensor) -> Tensor:
        """The product with a vector `[P]`."""

    def __matmul__(self, other: Tensor) -> Tensor:
        """The product with a vector `[P]` or a matrix `[P, k]`."""
        if other.shape[0] != self.shape[1]:
            raise UserError(f"a curvature of {self.shape[1]} parameters cannot be multiplied with shape {list(other.shape)}; the first size must be {self.shape[1]}.")  # fmt: skip
        if other.ndim == 1:
            return self.product(other)
        return torch.stack([self.product(column) for column in other.T], 1)

    def dense(self) -> Tensor:
        """The matrix itself, for tests and small models."""
        return self @ torch.eye(self.shape[0], dtype=self.dtype)


class HessianOperator(CurvatureOperator):
    """∇² L: the graph of the gradient is made once, a product is one backward pass through it."""

    @cached_property
    def _gradient(self) -> tuple[list[Tensor], Tensor]:
        leaves = [tensor.clone().requires_grad_() for tensor in self.of.parameters.values()]
        value = self.of.value(dict(zip(self.of.parameters, leaves, strict=True)))
        gradients = torch.autograd.grad(value, leaves, create_graph=True, materialize_grads=True)
        return leaves, torch.cat([gradient.reshape(-1) for gradient in gradients])

    def product(self, vector: Tensor) -> Tensor:
        leaves, gradient = self._gradient
        if not gradient.requires_grad:  # a loss that is linear in all parameters
            return torch.zeros_like(vector)
        parts = torch.autograd.grad(gradient, leaves, vector, retain_graph=True, materialize_grads=True)
        return torch.cat([part.reshape(-1) for part in parts])


class _Sandwich(CurvatureOperator):
    """Jᵀ M J of a vector-valued function, J by forward mode, Jᵀ by a backward pass that is prepared once."""

    @abstractmethod
    def values(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The function whose Jacobian J is."""

    @abstractmethod
    def middle(self, values: Tensor, tangent: Tensor) -> Tensor:
        """M times a tangent."""

    @cached_property
    def _pullback(self) -> tuple[Tensor, Callable[[Tensor], tuple[dict[str, Tensor]]]]:
        found = vjp(self.values, dict(self.of.parameters))
        return found[0], found[1]

    def product(self, vector: Tensor) -> Tensor:
        values, pull = self._pullback
        tangent = jvp(self.values, (dict(self.of.parameters),), (self.of.split(vector),))[1]
        (found,) = pull(self.middle(values, tangent).detach())
        return self.of.join(found).detach()


class GGNOperator(_Sandwich):
    """(1/N) Σ Jᵀ (∇²_f ℓ) J: positive semi-definite for convex losses, and the Hessian of the linearised model."""

    def values(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return self.of.outputs(parameters)

    def middle(self, values: Tensor, tangent: Tensor) -> Tensor:
        gradient = torch.func.grad(lambda outputs: self.of.loss(outputs, self.of.targets))
        return vjp(gradient, values.detach())[1](tangent)[0]  # symmetric, and not every loss has a forward mode


class FisherOperator(_Sandwich):
    """(1/N) Σ ∇ℓ_n ∇ℓ_nᵀ, the empirical Fisher matrix (uncentred covariance of gradients)."""

    def values(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return self.of.losses(parameters)

    def middle(self, values: Tensor, tangent: Tensor) -> Tensor:
        return tangent / len(tangent)


OPERATORS: dict[Kind, type[CurvatureOperator]] = {
    "hessian": HessianOperator, "ggn": GGNOperator, "fisher": FisherOperator,
}  # fmt: skip


def ggn_diagonal(of: Problem, chunk: int = 32) -> dict[str, Tensor]:
    """The exact diagonal of the GGN by tensor, from Jacobians of one sample after another.

    Args:
        of: model, data and loss; the outputs of a sample may have any shape.
        chunk: samples whose Jacobians are in memory at once.
    """

    def one(inputs: tuple[Tensor, ...], target: Tensor) -> dict[str, Tensor]:
        def outputs(parameters: dict[str, Tensor]) -> Tensor:
            with evaluation_mode(of.module):
                return functional_call(of.module, parameters, tuple(x[None] for x in inputs))[0]

        parameters = dict(of.parameters)
        y = outputs(parameters)
        jacobian = torch.func.jacrev(outputs)(parameters)

        def loss(flat: Tensor) -> Tensor:
            return of.loss(flat.view_as(y)[None], target[None])

        middle = torch.func.jacrev(torch.func.grad(loss))(y.flatten())
        found = {}
        for name, part in jacobian.items():
            rows = part.reshape(y.numel(), -1)
            found[name] = ((middle @ rows) * rows).sum(0).view_as(parameters[name])
        return found

    mapped = vmap(one, chunk_size=chunk)(of.inputs, of.targets)
    return {name: diagonal.mean(0) for name, diagonal in mapped.items()}
