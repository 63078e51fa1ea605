"""Axes that are only ever mixed linearly: GL(n), or O(n) where a norm or a Gram matrix is met in between.

A contraction of two dimensions is unchanged if one is multiplied by M and the other by M⁻ᵀ. The walks `linear` and
`orthogonal` find the indices for which every operator allows this; indices that occur together in every contraction and
in every parameter form a block of n, and blocks that occur in the same parameters are the copies of one factor.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphs.factors import Factor, PermutationFactor, Slot, Tensors
from graphs.finders import Context
from graphs.program import Program
from graphs.scalings.coordinates import first_names
from graphs.scalings.walk import Kind, ScaleWalk

Positions = NDArray[np.int64]
Cell = tuple[str, int, int]  # tensor, dimension, index


@dataclass(frozen=True)
class Mixed:
    """How a linear factor acts on one dimension of one tensor.

    Args:
        tensor: its name.
        dim: the dimension.
        shape: of the tensor.
        inverse: whether M⁻ᵀ acts instead of M.
        positions: `[copies, repeats, n]` indices of the dimension.
    """

    tensor: str
    dim: int
    shape: tuple[int, ...]
    inverse: bool
    positions: Positions


class LinearFactor(Factor):
    """GL(n) or O(n) in each of several copies; parameters are matrices `[..., copies, n, n]` in double precision.

    Args:
        name: unique in the group.
        mixed: where it acts.
        orthogonal: O(n) instead of GL(n).
        absorbs: permutation factors contained in it.
    """

    def __init__(self, name: str, mixed: tuple[Mixed, ...], orthogonal: bool, absorbs: tuple[str, ...] = ()) -> None:
        self.name, self.mixed, self.orthogonal, self.absorbs = name, mixed, orthogonal, absorbs
        self.copies, _, self.size = mixed[0].positions.shape
        self.kind = f"{'O' if orthogonal else 'GL'}({self.size})" + (f"^{self.copies}" if self.copies > 1 else "")
        self.slots = tuple(dict.fromkeys(Slot(m.tensor, (m.dim,)) for m in mixed))
        n = self.size
        self.dimension = self.copies * (n * (n - 1) // 2 if orthogonal else n * n)
        self.log_order = self.copies * math.log(2)  # two components: the sign of the determinant

    @cached_property
    def cells(self) -> frozenset[Cell]:
        """The indices of dimensions that it mixes."""
        return frozenset((m.tensor, m.dim, p) for m in self.mixed for p in m.positions.ravel().tolist())

    def identity(self) -> Tensor:
        return torch.eye(self.size, dtype=torch.float64).repeat(self.copies, 1, 1)

    def sample(self, generator: torch.Generator, scale: float = 1.0, models: int | None = None) -> Tensor:
        shape = (*(() if models is None else (models,)), self.copies, self.size, self.size)
        normal = torch.randn(shape, generator=generator, dtype=torch.float64)
        q, r = torch.linalg.qr(normal)
        haar = q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
        if self.orthogonal:
            return haar
        spread = torch.randn(shape, generator=generator, dtype=torch.float64) * scale / (2 * math.sqrt(self.size))
        return haar @ torch.linalg.matrix_exp(spread)

    def apply(self, parameters: Tensor, tensors: Tensors) -> dict[str, Tensor]:
        dual = parameters if self.orthogonal else torch.linalg.inv(parameters).mT
        result: dict[str, Tensor] = {}
        for m in self.mixed:
            if m.tensor in tensors:
                tensor = result.get(m.tensor, tensors[m.tensor])
                result[m.tensor] = _mix(tensor, dual if m.inverse else parameters, m)
        return result

    def compose(self, after: Tensor, before: Tensor) -> Tensor:
        return after @ before

    def inverse(self, parameters: Tensor) -> Tensor:
        return parameters.mT if self.orthogonal else torch.linalg.inv(parameters)

    def conjugate(self, parameters: Tensor, by: Factor, other: Tensor) -> Tensor | None:
        if not set(self.slots) & set(by.slots) or not self.cells & getattr(by, "cells", self.cells):
            return parameters
        chosen = next(m for m in self.mixed if Slot(m.tensor, (m.dim,)) in by.slots)
        source = by.sources(other, chosen.tensor, chosen.dim) if isinstance(by, PermutationFactor) else None
        if source is None:
            return None
        _, repeats, n = chosen.positions.shape
        place = np.full(int(source.shape[-1]), -1, np.int64)
        place[chosen.positions.ravel()] = np.arange(chosen.positions.size)
        old = place[source[..., chosen.positions[:, 0]]]  # [..., copies, n]
        copy, index = old // (repeats * n), old % n
        if (old < 0).any() or (copy != copy[..., :1]).any():
            return None
        c, i = torch.as_tensor(copy[..., 0]), torch.as_tensor(index)
        parameters, c, i = _together(parameters, c, i)
        moved = parameters.gather(-3, c[..., None, None].expand(parameters.shape))
        moved = moved.gather(-2, i[..., :, None].expand(parameters.shape))
        return moved.gather(-1, i[..., None, :].expand(parameters.shape))


def _together(parameters: Tensor, c: Tensor, i: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Broadcast the leading axes of `[..., copies, n, n]`, `[..., copies]` and `[..., copies, n]`."""
    lead = torch.broadcast_shapes(parameters.shape[:-3], c.shape[:-1])
    return (parameters.expand(*lead, *parameters.shape[-3:]), c.expand(*lead, *c.shape[-1:]),
            i.expand(*lead, *i.shape[-2:]))  # fmt: skip


def _mix(tensor: Tensor, matrices: Tensor, m: Mixed) -> Tensor:
    """Multiply the entries at `m.positions` of a dimension by a matrix a copy."""
    if matrices.ndim > 3 and tensor.ndim == len(m.shape):
        tensor = tensor.expand(*matrices.shape[:-3], *tensor.shape)
    lead = tensor.ndim - len(m.shape)
    moved = tensor.movedim(lead + m.dim, -1)
    index = torch.as_tensor(m.positions, device=tensor.device)
    part = moved[..., index]  # [models, *rest, copies, repeats, n]
    matrices = matrices.to(tensor)
    if matrices.ndim > 3:
        matrices = matrices.reshape(*matrices.shape[:-3], *[1] * (len(m.shape) - 1), *matrices.shape[-3:])
    mixed = (matrices.unsqueeze(-3) @ part.unsqueeze(-1)).squeeze(-1)
    result = moved.index_copy(-1, index.flatten(), mixed.flatten(-3))
    return result.movedim(-1, lead + m.dim)


def linear_factors(context: Context) -> tuple[LinearFactor, ...]:
    """GL and O factors of a program."""
    found: list[tuple[tuple[Mixed, ...], bool]] = []
    owner: dict[tuple[str, int], Positions] = {}  # for every index the numbers of its factor and of its copy, or -1
    kinds: tuple[Kind, ...] = ("linear", "orthogonal")
    for kind in kinds:
        for mixed in blocks(context.program, kind):
            for m in mixed:
                owner.setdefault((m.tensor, m.dim), np.full((2, m.shape[m.dim]), -1))
            if not any((owner[m.tensor, m.dim][0, m.positions] >= 0).any() for m in mixed):
                for m in mixed:
                    copy = np.arange(m.positions[..., 0].size).reshape(*m.positions.shape[:2], 1)
                    owner[m.tensor, m.dim][0, m.positions] = len(found)
                    owner[m.tensor, m.dim][1, m.positions] = copy
                found.append((mixed, kind == "orthogonal"))
    absorbed: dict[int, list[str]] = defaultdict(list)
    for factor in context.permutations:
        home = _inside(factor, owner)
        if home is not None:
            absorbed[home].append(factor.name)
    factors = []
    for number, (mixed, orthogonal) in enumerate(found):
        rows = [m for m in mixed if m.dim == 0] or list(mixed)
        span = rows[0].positions
        size = rows[0].shape[rows[0].dim]
        part = "" if span.size == size else f" from {span.min()}"
        name = f"linear {Slot(rows[0].tensor, (rows[0].dim,))}{part}"
        factors.append(LinearFactor(name, mixed, orthogonal, tuple(absorbed[number])))
    return tuple(factors)


def _inside(factor: PermutationFactor, owner: dict[tuple[str, int], Positions]) -> int | None:
    """The linear factor that contains every element of a permutation factor: it permutes inside the copies."""
    shift = factor.identity().roll(1, -1)
    home = None
    for slot in factor.slots:
        (dim,) = slot.dims
        source = factor.sources(shift, slot.tensor, dim)
        if source is None:
            return None
        moved = np.flatnonzero(source != np.arange(len(source)))
        if not len(moved):
            continue
        if (slot.tensor, dim) not in owner:
            return None
        to, out_of = owner[slot.tensor, dim][:, moved], owner[slot.tensor, dim][:, source[moved]]
        if (to < 0).any() or (to != out_of).any():
            return None
        home = int(to[0, -1])
    return home


def blocks(program: Program, kind: Kind) -> list[tuple[Mixed, ...]]:
    """The blocks of indices that are mixed together, copies with the same parameters joined."""
    walk = ScaleWalk(program, kind).run()
    basis = walk.system.solve().basis
    count = np.diff(basis.indptr)
    component = np.full(basis.shape[0], -1, np.int64)
    sign = np.zeros(basis.shape[0], np.int64)
    single = count == 1
    component[single], sign[single] = basis.indices[basis.indptr[:-1][single]], basis.data[basis.indptr[:-1][single]]
    dead = {int(g) for g in basis.indices[np.repeat(count > 1, count)]}
    rows: set[tuple[tuple[int, int], ...]] = set()  # generators and how often each occurs
    for term, axes in walk.contracted:
        width = int(np.prod([term.shape[axis] for axis in axes]))
        table = np.moveaxis(term, axes, range(term.ndim - len(axes), term.ndim)).reshape(-1, width)
        for ids in np.unique(table, axis=0) if len(table) > 1 else table:
            alive = component[ids][component[ids] >= 0]
            names, repeats = np.unique(alive, return_counts=True)
            if len(set(sign[ids][component[ids] >= 0].tolist())) > 1:
                dead |= set(names.tolist())
            rows.add(tuple(zip(names.tolist(), repeats.tolist(), strict=True)))
    member: dict[int, list[Any]] = defaultdict(list)  # what a generator takes part in
    for number, row in enumerate(sorted(rows)):
        for generator, times in row:
            member[generator].append((number, times))
    met = set(member)
    tied = first_names(program)
    occurs: dict[int, list[tuple[str, int, int, int]]] = defaultdict(list)
    for name in tied:
        for term in walk.parameters[name]:
            wide = [d for d, size in enumerate(term.shape) if size > 1]
            ids = term.ravel()
            for position in np.flatnonzero(component[ids] >= 0):
                generator = int(component[ids[position]])
                if len(wide) != 1:
                    dead.add(generator)
                    continue
                occurs[generator].append((name, wide[0], int(sign[ids[position]]), int(position)))
    alike: dict[Any, list[int]] = defaultdict(list)
    for generator in sorted(met - dead):
        if generator in occurs:
            places = [entry[:3] for entry in occurs[generator]]
            alike[tuple(member[generator]), tuple(places)].append(generator)
    grouped: dict[Any, list[list[int]]] = defaultdict(list)
    for (_, places), generators in alike.items():
        if len(generators) > 1:
            grouped[places, len(generators)].append(generators)
    found = []
    for (places, _), copies in grouped.items():
        mixed = []
        for name, dim, way in sorted(set(places)):
            positions = np.array(
                [
                    [[p for n, d, s, p in occurs[g] if (n, d, s) == (name, dim, way)] for g in generators]
                    for generators in copies
                ]
            )  # [copies, n, repeats]
            shape = program.values[program.tensors[name]].shape
            for other in tied[name]:
                mixed.append(Mixed(other, dim, shape, way < 0, positions.swapaxes(1, 2)))
        if len({m.inverse for m in mixed}) > 1 or kind == "orthogonal":
            found.append(tuple(mixed))
    return found
