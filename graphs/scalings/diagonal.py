"""Factors that multiply entries: positive scales R+^k, signs Z2^k and phases U(1)^k."""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array, csc_array, csr_array, hstack
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from graphs.factors import Factor, PermutationFactor, Slot, Tensors
from graphs.finders import Context, finder
from graphs.program import Program
from graphs.scalings.coordinates import Coordinates, Segment, canonical, first_names, independent, settled
from graphs.scalings.elimination import independent_columns
from graphs.scalings.linear import Cell, LinearFactor, linear_factors
from graphs.scalings.rotations import RotationFactor, rotations
from graphs.scalings.walk import ScaleWalk

Diagonal = Literal["positive", "sign", "phase"]
NAMES: dict[Diagonal, tuple[str, str]] = {
    "positive": ("scale", "R+"),
    "sign": ("sign", "Z2"),
    "phase": ("phase", "U(1)"),
}


@dataclass(frozen=True)
class Exponent:
    """One term of the exponent of a tensor: `Σ_w parameters[index[..., w]] · coefficient[..., w]`.

    Args:
        tensor: name.
        shape: of the term, 1 along the dimensions it does not depend on.
        index: `[size, w]` generators.
        coefficient: `[size, w]`.
        additive: added to the tensor instead of multiplied.
    """

    tensor: str
    shape: tuple[int, ...]
    index: NDArray[np.int64]
    coefficient: NDArray[np.float64]
    additive: bool

    def of(self, parameters: Tensor) -> Tensor:
        """The exponent, `[..., *shape]`."""
        picked = parameters[..., torch.as_tensor(self.index)] * torch.as_tensor(self.coefficient)
        return picked.sum(-1).reshape(*parameters.shape[:-1], *self.shape)


class DiagonalFactor(Factor):
    """Scales, signs or phases of entries: an element is a vector `[..., k]`, one number a generator.

    Positive scales are given by their logarithms, phases by angles, signs by 0 and 1 (1: flipped).

    Args:
        name: unique in the group.
        question: positive, sign or phase.
        segments: the coordinates it acts on.
        matrix: `[coordinate, k]`, the rows of these segments one after another, term by term.
        tied: first name → all names of a tensor.
        shapes: of all tensors.
    """

    def __init__(
        self,
        name: str,
        question: Diagonal,
        segments: Sequence[Segment],
        matrix: csr_array,
        tied: dict[str, tuple[str, ...]],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.name, self.question, self.segments, self.matrix, self.shapes = (
            name,
            question,
            tuple(segments),
            matrix,
            shapes,
        )
        self.tied = tied
        self.count = int(matrix.shape[1])
        self.kind = f"{NAMES[question][1]}" + (f"^{self.count}" if self.count > 1 else "")
        self.dimension = 0 if question == "sign" else self.count
        self.log_order = self.count * math.log(2) if question == "sign" else 0.0
        self.exponents: list[Exponent] = []
        start = 0
        for segment in segments:
            size = int(np.prod(segment.shape))
            index, coefficient = _padded(csr_array(matrix[start : start + size]))
            start += size
            if coefficient.any():
                self.exponents += [
                    Exponent(n, segment.shape, index, coefficient, segment.additive) for n in tied[segment.tensor]
                ]
        self.slots = tuple(dict.fromkeys(Slot(e.tensor, (d,)) if e.shape else Slot(e.tensor, ()) for e in self.exponents for d in _wide(e.shape)))  # fmt: skip

    def identity(self) -> Tensor:
        return torch.zeros(self.count, dtype=torch.int64 if self.question == "sign" else torch.float64)

    def sample(self, generator: torch.Generator, scale: float = 1.0, models: int | None = None) -> Tensor:
        shape = (self.count,) if models is None else (models, self.count)
        if self.question == "sign":
            return torch.randint(0, 2, shape, generator=generator)
        if self.question == "phase":
            return (torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1) * math.pi
        return torch.randn(shape, generator=generator, dtype=torch.float64) * scale

    def apply(self, parameters: Tensor, tensors: Tensors) -> dict[str, Tensor]:
        result: dict[str, Tensor] = {}
        for name, exponent in self._total(parameters, tensors).items():
            tensor, additive = tensors[name], name in self.additive
            if additive:
                result[name] = tensor + exponent.to(tensor)
            elif self.question == "sign":
                result[name] = tensor * (1 - 2 * exponent.remainder(2)).to(tensor)
            elif self.question == "phase":
                result[name] = tensor * torch.polar(torch.ones_like(exponent), exponent).to(tensor)
            else:
                factor, offset = exponent.exp().to(tensor.device, tensor.real.dtype), self.offsets.get(name, 0.0)
                result[name] = (tensor + offset) * factor - offset if offset else tensor * factor
        return result

    @cached_property
    def cells(self) -> frozenset[Cell]:
        """The indices of dimensions at which something is multiplied."""
        return frozenset(
            (e.tensor, d, place[d])
            for e in self.exponents
            for row, place in enumerate(np.ndindex(*e.shape))
            if e.coefficient[row].any()
            for d in _wide(e.shape)
            if e.shape
        )

    @cached_property
    def offsets(self) -> dict[str, float]:
        """What is added to tensors before they are multiplied, and taken off after."""
        return {n: s.offset for s in self.segments if s.offset for n in self.tied[s.tensor]}

    @cached_property
    def additive(self) -> set[str]:
        """The tensors that it is added to."""
        return {e.tensor for e in self.exponents if e.additive}

    @cached_property
    def adds(self) -> frozenset[str]:
        """The tensors that it does not just multiply."""
        return frozenset(self.additive | set(self.offsets))

    def _total(self, parameters: Tensor, names: Container[str] | None = None) -> dict[str, Tensor]:
        """The exponent of every tensor (of those named), broadcastable to it."""
        total: dict[str, Tensor] = {}
        for exponent in self.exponents:
            if names is not None and exponent.tensor not in names:
                continue
            value = exponent.of(parameters)
            total[exponent.tensor] = total[exponent.tensor] + value if exponent.tensor in total else value
        return total

    def compose(self, after: Tensor, before: Tensor) -> Tensor:
        total = after + before
        if self.question == "sign":
            return total.remainder(2)
        return (total + math.pi).remainder(2 * math.pi) - math.pi if self.question == "phase" else total

    def inverse(self, parameters: Tensor) -> Tensor:
        return parameters if self.question == "sign" else -parameters

    def conjugate(self, parameters: Tensor, by: Factor, other: Tensor) -> Tensor | None:
        if isinstance(by, DiagonalFactor) or not set(self.slots) & set(by.slots):
            return parameters
        if not self.cells & getattr(by, "cells", self.cells):
            return parameters
        if not isinstance(by, PermutationFactor) and not getattr(by, "moves_entries", False):
            return None
        field = {
            n: t.to(torch.float64).expand(*parameters.shape[:-1], *self.shapes[n])
            for n, t in self._total(parameters).items()
        }
        moved = {**field, **by.apply(other, field)}
        read = []
        for tensor, point, base in self._pivots[1]:
            value = _at(moved[tensor], point)
            read.append(value if base is None else value - _at(moved[tensor], base))
        found = torch.stack(torch.broadcast_tensors(*read), -1) @ torch.as_tensor(self._pivots[0]).T
        if self.question == "sign":
            found = found.round().remainder(2).to(torch.int64)
        elif self.question == "phase":
            found = (found + math.pi).remainder(2 * math.pi) - math.pi
        for name, exponent in self._total(found).items():
            gap = exponent - moved[name]
            gap = gap.remainder(2) if self.question == "sign" else gap
            gap = (gap + math.pi).remainder(2 * math.pi) - math.pi if self.question == "phase" else gap
            if float(gap.abs().max()) > 1e-9:
                return None
        return found

    @cached_property
    def _pivots(self) -> tuple[NDArray[np.float64], list[tuple[str, tuple[int, ...], tuple[int, ...] | None]]]:
        """k coordinates that determine the element: the inverse of their block, and where to read each of them.

        A coordinate is read at a point of the exponent of a tensor, relative to the same tensor's first point.
        """
        points: list[tuple[str, tuple[int, ...], tuple[int, ...] | None]] = []
        for segment in self.segments:
            for place in np.ndindex(*segment.shape):
                zero = (0,) * len(segment.shape)
                points.append((segment.tensor, place, None if segment.first else zero))
        matrix = csr_array(canonical(self.segments, self.matrix))
        dense_rows = np.flatnonzero(np.diff(matrix.indptr))
        dense = matrix[dense_rows].toarray()
        chosen = independent_columns(csc_array(dense.T), 2 if self.question == "sign" else 0)
        block = dense[chosen]
        inverse = np.linalg.inv(block)
        if self.question == "sign":
            inverse = np.round(inverse * round(np.linalg.det(block)))
        return inverse, [points[dense_rows[k]] for k in chosen]


def _at(field: Tensor, point: tuple[int, ...]) -> Tensor:
    """The entry at a point, leading axes kept."""
    for index in reversed(point):
        field = field[..., index]
    return field


def _wide(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(d for d, size in enumerate(shape) if size > 1) or (0,)


def _padded(matrix: csr_array) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Column indices and values of every row, `[row, w]`, filled up with zeros."""
    count = np.diff(matrix.indptr)
    width = max(int(count.max(initial=0)), 1)
    index = np.zeros((len(count), width), np.int64)
    value = np.zeros((len(count), width))
    row = np.repeat(np.arange(len(count)), count)
    column = np.arange(len(row)) - np.repeat(matrix.indptr[:-1], count)
    index[row, column], value[row, column] = matrix.indices, matrix.data
    return index, value


def _with_uniform(program: Program, question: Diagonal, modulus: int = 0) -> Coordinates:
    """The coordinates of a walk, with what scaling whole tensors alike adds to it."""
    found = Coordinates.of(ScaleWalk(program, question).run())
    return found.extended(Coordinates.of(ScaleWalk(program, question, uniform=True).run()), modulus)


@finder(10)
def linear_and_diagonal(context: Context) -> list[Factor]:
    """Linear factors, and what scales, phases and signs there are besides their diagonals."""
    linear = linear_factors(context)
    scale = _with_uniform(context.program, "positive")
    sign = _with_uniform(context.program, "sign", 2)
    phases: list[Factor] = []
    half_turns = csc_array((sign.matrix.shape[0], 0))
    if any(value.dtype.is_complex for value in context.program.values):
        phase = Coordinates.of(ScaleWalk(context.program, "phase").run())
        columns = independent(csc_array((phase.matrix.shape[0], 0)), phase.matrix)
        phases += factors_of(context, "phase", phase, columns)
        half_turns = sign.adopted(phase, columns)  # a phase of π is a sign
    turns = rotations(context)
    free = independent(_diagonals(scale, linear, "positive"), scale.matrix)
    known = csc_array(hstack([_diagonals(sign, linear, "sign"), half_turns, _half_turns(sign, turns)]))
    flips = independent(known, sign.matrix, 2)
    return [
        *linear,
        *factors_of(context, "positive", scale, free),
        *factors_of(context, "sign", sign, flips),
        *phases,
        *turns,
    ]


def factors_of(
    context: Context, question: Diagonal, space: Coordinates, columns: NDArray[np.int64]
) -> list[DiagonalFactor]:
    """Factors of chosen generators: those that share a dimension of a tensor are one factor."""
    chosen = settled(space.segments, csc_array(space.raw)[:, columns], 2 if question == "sign" else 0)
    owner = np.repeat(np.arange(len(space.segments)), [s.stop - s.start for s in space.segments])
    row, column = chosen.nonzero()
    height, width = len(space.segments), len(columns)
    graph = coo_array((np.ones(len(row)), (owner[row], height + column)), (height + width,) * 2)
    component = connected_components(graph, directed=False)[1]
    tied = first_names(context.program)
    shapes = {name: context.program.values[value].shape for name, value in context.program.tensors.items()}
    factors = []
    for number in dict.fromkeys(component[height:].tolist()):
        own = np.flatnonzero(component[height:] == number)
        names = {s.tensor for s, c in zip(space.segments, component, strict=False) if c == number}
        segments = [s for s in space.segments if s.tensor in names]
        rows = np.concatenate([np.arange(s.start, s.stop) for s in segments])
        matrix = csr_array(chosen[rows][:, own])
        factor = DiagonalFactor("", question, segments, matrix, tied, shapes)
        first = next((slot for slot in factor.slots if slot.dims == (0,)), factor.slots[0])
        factor.name = f"{NAMES[question][0]} {first}"
        factors.append(factor)
    return factors


def _diagonals(space: Coordinates, linear: Sequence[LinearFactor], question: Diagonal) -> csc_array:
    """The diagonal elements of linear factors, as columns of coordinates."""
    height = space.matrix.shape[0]
    rows: list[NDArray[np.int64]] = []
    columns: list[NDArray[np.int64]] = []
    values: list[NDArray[np.float64]] = []
    width = 0
    for factor in linear:
        if factor.orthogonal and question != "sign":
            continue
        for m in factor.mixed:
            places = space.places(m.tensor, m.dim)
            if places is None:
                continue
            copies, _, n = m.positions.shape
            own = places[m.positions]  # [copies, repeats, n, coordinates]
            number = np.broadcast_to(np.arange(copies * n).reshape(copies, 1, n, 1), own.shape)
            rows.append(own.ravel())
            columns.append(width + number.ravel())
            values.append(np.full(own.size, -1.0 if m.inverse and question == "positive" else 1.0))
        width += factor.copies * factor.size
    if not width:
        return csc_array((height, 0))
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return canonical(space.segments, csr_array(coo_array(entries, (height, width))))


def _half_turns(space: Coordinates, turns: Sequence[RotationFactor]) -> csc_array:
    """Rotations by π, which are signs, as columns of coordinates."""
    height = space.matrix.shape[0]
    columns = []
    for factor in turns:
        column = np.zeros((height, factor.copies))
        for t in factor.turned:
            places = space.places(t.tensor, t.dim)
            if places is not None:
                for copy, own in enumerate(t.positions):
                    column[places[own].ravel(), copy] = 1
        columns.append(csc_array(column))
    return canonical(space.segments, csr_array(hstack(columns))) if columns else csc_array((height, 0))
