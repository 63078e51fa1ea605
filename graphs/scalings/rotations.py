"""Rotations that constant maps leave room for: U(1) on every pair of rotary queries and keys.

Queries q and keys k that constant linear maps reach before they meet make scores (C_t q)ᵀ (D_s k). With
M = C_tᵀ D_s they stay as they are under q → exp(X) q, k → exp(Y) k if Xᵀ M + M Y = 0 for all positions. Features that meet
in some M fall into connected components; where the solutions on a component are the complex numbers, x + i y with
the imaginary unit J (J² = −1), its x is a scale, found elsewhere, and its y is the rotation cos φ + sin φ J found here.
The maps are run on basis vectors, so it does not matter how a module writes them down (RoFormer, Su et al., 2021, has
neighbouring pairs and complex numbers, others have pairs half a head apart).
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphs.factors import Factor, PermutationFactor, Slot, Tensors
from graphs.finders import Context
from graphs.scalings.constant_maps import TOLERANCE, reach_of, starts_of, units
from graphs.scalings.coordinates import first_names
from graphs.scalings.linear import Cell


@dataclass(frozen=True)
class Turned:
    """How rotations act on one dimension of one tensor.

    Args:
        tensor: its name.
        dim: the dimension.
        shape: of the tensor.
        positions: `[copies, n]` indices of the dimension.
        unit: `[copies, n, n]` J, whose square is −1.
    """

    tensor: str
    dim: int
    shape: tuple[int, ...]
    positions: NDArray[np.int64]
    unit: Tensor


class RotationFactor(Factor):
    """U(1) in each of several copies, cos φ + sin φ J; an element is a vector of angles `[..., copies]`.

    Args:
        name: unique in the group.
        turned: where it acts.
    """

    def __init__(self, name: str, turned: Sequence[Turned]) -> None:
        self.name, self.turned = name, tuple(turned)
        self.copies = len(self.turned[0].positions)
        self.kind = "U(1)" + (f"^{self.copies}" if self.copies > 1 else "")
        self.slots = tuple(dict.fromkeys(Slot(t.tensor, (t.dim,)) for t in self.turned))
        self.dimension = self.copies

    @cached_property
    def cells(self) -> frozenset[Cell]:
        """The indices of dimensions that it turns."""
        return frozenset((t.tensor, t.dim, p) for t in self.turned for p in t.positions.ravel().tolist())

    def identity(self) -> Tensor:
        return torch.zeros(self.copies, dtype=torch.float64)

    def sample(self, generator: torch.Generator, scale: float = 1.0, models: int | None = None) -> Tensor:
        shape = (self.copies,) if models is None else (models, self.copies)
        return (torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1) * math.pi

    def apply(self, parameters: Tensor, tensors: Tensors) -> dict[str, Tensor]:
        result: dict[str, Tensor] = {}
        for t in self.turned:
            if t.tensor in tensors:
                result[t.tensor] = _turn(result.get(t.tensor, tensors[t.tensor]), parameters, t)
        return result

    def compose(self, after: Tensor, before: Tensor) -> Tensor:
        return (after + before + math.pi).remainder(2 * math.pi) - math.pi

    def inverse(self, parameters: Tensor) -> Tensor:
        return -parameters

    def principal(self, tensors: Tensors) -> Tensor | None:
        """The angles that turn Σ |x|² x of every pair x to its first axis, None if J mixes more than pairs everywhere."""
        t = next((t for t in self.turned if t.positions.shape[1] == 2 and len(t.shape) > 1), None)
        if t is None:
            return None
        part = (
            tensors[t.tensor].movedim(t.dim, -1)[..., torch.as_tensor(t.positions)].flatten(0, -3)
        )  # [rest, copies, 2]
        cubes = (part * part.square().sum(-1, keepdim=True)).sum(0)
        return -torch.atan2(cubes[:, 1] / t.unit[:, 1, 0].to(cubes), cubes[:, 0])

    def nearest(self, reference: Tensors, tensors: Tensors) -> Tensor:
        """The angles that take some tensors closest to others (J is a rotation where the maps are)."""
        along, across = (torch.zeros(self.copies, dtype=torch.float64) for _ in range(2))
        for t in self.turned:
            if t.tensor in reference:
                a, b = (
                    part[t.tensor].movedim(t.dim, -1)[..., torch.as_tensor(t.positions)]
                    for part in (reference, tensors)
                )
                turned = (t.unit.to(b) @ b.unsqueeze(-1)).squeeze(-1)
                along += (a * b).sum(-1).flatten(0, -2).sum(0) if a.ndim > 2 else (a * b).sum(-1)
                across += (a * turned).sum(-1).flatten(0, -2).sum(0) if a.ndim > 2 else (a * turned).sum(-1)
        return torch.atan2(across, along)

    def conjugate(self, parameters: Tensor, by: Factor, other: Tensor) -> Tensor | None:
        if not self.cells & getattr(by, "cells", self.cells) or not set(self.slots) & set(by.slots):
            return parameters
        if not isinstance(by, PermutationFactor):
            return parameters if self._same_on_copies(by, other) else None
        angle: Tensor | None = None
        for t in self.turned:
            moved = self._permuted(parameters, t, by, other)
            if moved is None or (angle is not None and not torch.equal(*torch.broadcast_tensors(angle, moved))):
                return None
            angle = moved
        return angle

    def _permuted(self, parameters: Tensor, t: Turned, by: PermutationFactor, other: Tensor) -> Tensor | None:
        """Angles after the indices of one dimension were permuted, None if that does not take every J to some ±J."""
        if Slot(t.tensor, (t.dim,)) not in by.slots:
            return parameters
        source = by.sources(other, t.tensor, t.dim)
        if source is None:
            return None
        n = t.positions.shape[1]
        place = np.full(t.shape[t.dim], -1, np.int64)
        place[t.positions.ravel()] = np.arange(t.positions.size)
        old = torch.as_tensor(place[source[..., t.positions]])  # [..., copies, n]
        copy, index = old[..., 0] // n, old % n
        if (old < 0).any() or (old // n != copy[..., None]).any():
            return None
        unit = t.unit[copy]  # [..., copies, n, n], in the new order:
        unit = unit.gather(-2, index[..., None].expand(unit.shape)).gather(-1, index[..., None, :].expand(unit.shape))
        sign = (unit * t.unit).sum((-2, -1)).sign()
        if float((unit - sign[..., None, None] * t.unit).abs().max()) > TOLERANCE:
            return None
        lead = torch.broadcast_shapes(parameters.shape[:-1], copy.shape[:-1])
        return sign * parameters.expand(*lead, -1).gather(-1, copy.expand(*lead, -1))

    def _same_on_copies(self, by: Factor, other: Tensor) -> bool:
        """Whether an element multiplies all features of a copy alike, so that rotations do not see it."""
        from graphs.scalings.diagonal import DiagonalFactor  # which imports this module

        if not isinstance(by, DiagonalFactor):
            return False
        ones = {t.tensor: torch.ones(t.shape, dtype=torch.float64) for t in self.turned}
        moved = by.apply(other, ones)
        for t in self.turned:
            if t.tensor in moved:
                part = moved[t.tensor].movedim(t.dim - len(t.shape), -1)[..., torch.as_tensor(t.positions)]
                if float((part - part[..., :1]).abs().max()) > TOLERANCE * float(part.abs().max()):
                    return False
        return True


def _turn(tensor: Tensor, angle: Tensor, t: Turned) -> Tensor:
    """Turn the entries at `t.positions` of a dimension by an angle a copy."""
    if angle.ndim > 1 and tensor.ndim == len(t.shape):
        tensor = tensor.expand(*angle.shape[:-1], *tensor.shape)
    moved = tensor.movedim(tensor.ndim - len(t.shape) + t.dim, -1)
    index = torch.as_tensor(t.positions, device=tensor.device)
    part = moved[..., index]  # [models, *rest, copies, n]
    if angle.ndim > 1:
        angle = angle.reshape(*angle.shape[:-1], *[1] * (len(t.shape) - 1), -1)
    cosine, sine = angle.cos().to(tensor)[..., None], angle.sin().to(tensor)[..., None]
    turned = cosine * part + sine * (t.unit.to(tensor) @ part.unsqueeze(-1)).squeeze(-1)
    result = moved.index_copy(-1, index.flatten(), turned.flatten(-2))
    return result.movedim(-1, tensor.ndim - len(t.shape) + t.dim)


def rotations(context: Context) -> list[RotationFactor]:
    """Rotations of features that meet in scores behind constant maps."""
    program = context.program
    reach = reach_of(program, starts_of(program))
    if not reach.mixes:
        return []
    tied = first_names(program)
    grouped: dict[tuple[tuple[str, int, int], ...], list[list[Turned]]] = defaultdict(list)
    for owner, feature, unit in units(program, reach):
        found = []
        for number in np.unique(owner):
            own = owner == number
            block = torch.as_tensor(unit[np.ix_(own, own)])[None]
            for first, dim in reach.starts[number].tensors:
                shape = program.values[program.tensors[first]].shape
                found += [Turned(name, dim, shape, feature[own][None], block) for name in tied[first]]
        grouped[tuple((t.tensor, t.dim, t.positions.shape[1]) for t in found)].append(found)
    factors = []
    for copies in grouped.values():
        turned = [
            replace(
                parts[0],
                positions=np.concatenate([t.positions for t in parts]),
                unit=torch.cat([t.unit for t in parts]),
            )
            for parts in zip(*copies, strict=True)
        ]
        factors.append(RotationFactor(f"rotation {Slot(turned[0].tensor, (turned[0].dim,))}", turned))
    return factors
