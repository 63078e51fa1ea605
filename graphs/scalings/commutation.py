"""Commutation: the factors of an elementwise product that are computed alike may change places.

In (W x) ⊙ (V x) every unit may swap its row of W with its row of V: Z2^h. The two branches of a product are compared op
by op down to their parameters; a parameter counts only if nothing else reads it. With a nonlinearity in one of the
branches (SwiGLU) they differ, and nothing is swapped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphs.factors import Factor, PermutationFactor, Slot, Tensors
from graphs.finders import Context, finder
from graphs.program import Op, Program, Reference
from graphs.scalings.coordinates import first_names


@dataclass(frozen=True)
class Pair:
    """Two parameters that play the same part in the two branches.

    Args:
        left, right: their names.
        dim: the dimension that runs over units, None if they hold nothing per unit.
        unit: `[size]` the unit of every index of that dimension.
    """

    left: str
    right: str
    dim: int
    unit: NDArray[np.int64]


class SwapFactor(Factor):
    """Swaps the two branches of a product, unit by unit; parameters are int64 `[..., k]`, 1 where a unit is swapped.

    Args:
        name: unique in the group.
        pairs: the parameters of the branches.
        count: number of units k.
        tied: first name → all names of a tensor.
        shapes: of every tensor.
    """

    moves_entries = True  # scales and signs can be carried past it

    def __init__(
        self,
        name: str,
        pairs: Sequence[Pair],
        count: int,
        tied: dict[str, tuple[str, ...]],
        shapes: dict[str, tuple[int, ...]],
    ) -> None:
        self.name, self.pairs, self.count, self.tied, self.shapes = name, tuple(pairs), count, tied, shapes
        self.kind = "Z2" + (f"^{count}" if count > 1 else "")
        self.log_order = count * math.log(2)
        self.slots = tuple(Slot(side, (pair.dim,)) for pair in pairs for side in (pair.left, pair.right))

    def identity(self) -> Tensor:
        return torch.zeros(self.count, dtype=torch.int64)

    def sample(self, generator: torch.Generator, scale: float = 1.0, models: int | None = None) -> Tensor:
        shape = (self.count,) if models is None else (models, self.count)
        return torch.randint(0, 2, shape, generator=generator)

    def apply(self, parameters: Tensor, tensors: Tensors) -> dict[str, Tensor]:
        result: dict[str, Tensor] = {}
        for pair in self.pairs:
            if pair.left not in tensors or pair.right not in tensors:
                continue
            left, right = torch.broadcast_tensors(tensors[pair.left], tensors[pair.right])
            rank = len(self.shapes[pair.left])
            swapped = parameters[..., torch.as_tensor(pair.unit)].bool()  # [..., size]
            swapped = swapped.reshape(*swapped.shape[:-1], *(-1 if d == pair.dim else 1 for d in range(rank)))
            for name, own, other in ((pair.left, left, right), (pair.right, right, left)):
                for tied in self.tied[name]:
                    result[tied] = torch.where(swapped, other, own)
        return result

    def compose(self, after: Tensor, before: Tensor) -> Tensor:
        return (after + before).remainder(2)

    def inverse(self, parameters: Tensor) -> Tensor:
        return parameters

    def conjugate(self, parameters: Tensor, by: Factor, other: Tensor) -> Tensor | None:
        if not set(self.slots) & set(by.slots):
            return parameters
        if not isinstance(by, PermutationFactor):
            return None
        return carried(self, parameters, by, other)


def carried(factor: SwapFactor, parameters: Tensor, by: PermutationFactor, other: Tensor) -> Tensor | None:
    """Numbers of units after the units were permuted, None if units are not permuted as a whole."""
    found: Tensor | None = None
    for pair in factor.pairs:
        full = factor.shapes[pair.left]
        shape = [size if d == pair.dim else 1 for d, size in enumerate(full)]
        for name in (pair.left, pair.right):
            spread = parameters[..., torch.as_tensor(pair.unit)].reshape(*parameters.shape[:-1], *shape)
            spread = spread.expand(*parameters.shape[:-1], *full)
            moved = by.apply(other, {name: spread}).get(name, spread)
            moved = moved.movedim(pair.dim - len(full), -1)
            moved = moved.flatten(-len(full), -2)[..., 0, :] if len(full) > 1 else moved  # [..., size]
            own = torch.zeros(*moved.shape[:-1], factor.count, dtype=moved.dtype)
            own = own.index_copy(-1, torch.as_tensor(pair.unit), moved)
            if found is not None and not torch.equal(*torch.broadcast_tensors(found, own)):
                return None
            found = own
    return found


@finder(5)
def swaps(context: Context) -> list[Factor]:
    """Swaps of branches at every elementwise product."""
    tied = first_names(context.program)
    name_of = {context.program.tensors[name]: name for name in tied}
    shapes = {name: context.program.values[context.program.tensors[name]].shape for name in tied}
    users = context.program.users()
    factors: list[Factor] = []
    for op in context.program.ops:
        if op.name != "aten.mul" or len(op.inputs) != 2 or op.inputs[0] == op.inputs[1]:
            continue
        branches = Branches(context.program, name_of)
        if not branches.alike(*op.inputs) or not branches.closed(users, op.index):
            continue
        pairs, count = _units(context, op, list(branches.pairs))
        if count:
            factor = SwapFactor("", pairs, count, tied, shapes)
            factor.name = f"swap {factor.slots[0]}"
            factors.append(factor)
    return factors


class Branches:
    """Two values compared op by op, down to the parameters by which they differ.

    Args:
        program: the traced module.
        name_of: name of every parameter by value.
    """

    def __init__(self, program: Program, name_of: dict[int, str]) -> None:
        self.program, self.name_of = program, name_of
        self.pairs: dict[tuple[str, str], None] = {}
        self.values: tuple[set[int], set[int]] = (set(), set())
        self.ops: tuple[set[int], set[int]] = (set(), set())

    def alike(self, left: int, right: int) -> bool:
        """Whether both values are computed by the same operators from the same values and from paired parameters."""
        if left == right:
            return True
        a, b = self.program.values[left], self.program.values[right]
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        for side, value in zip(self.values, (left, right), strict=True):
            side.add(value)
        if left in self.name_of and right in self.name_of:
            self.pairs[self.name_of[left], self.name_of[right]] = None
            return True
        if a.producer is None or b.producer is None:
            return False
        first, second = self.program.ops[a.producer], self.program.ops[b.producer]
        for side, op in zip(self.ops, (first, second), strict=True):
            side.add(op.index)
        same = first.target == second.target and first.outputs.index(left) == second.outputs.index(right)
        arguments = [(*op.arguments, *(value for _, value in sorted(op.keywords.items()))) for op in (first, second)]
        return same and len(arguments[0]) == len(arguments[1]) and all(map(self._same, *arguments))

    def _same(self, x: Any, y: Any) -> bool:
        if isinstance(x, Reference) and isinstance(y, Reference):
            return self.alike(x.value, y.value)
        return bool(x == y)

    def closed(self, users: Sequence[Sequence[int]], product: int) -> bool:
        """Whether nothing but the product reads what the branches compute, nor each other's values."""
        apart = not self.values[0] & self.values[1]
        return apart and all(
            set(users[value]) <= ops | {product}
            for values, ops in zip(self.values, self.ops, strict=True)
            for value in values
        )


def _units(context: Context, op: Op, matched: Sequence[tuple[str, str]]) -> tuple[list[Pair], int]:
    """The dimension of every pair that runs over the product's neurons, and how many units there are (0: none)."""
    labelling = context.labelling
    made = labelling.values[op.output]
    assert made is not None
    plain = [array.ravel() for k, array in enumerate(made) if array is not None and array.size == array.shape[k]]
    neurons = [n for n in dict.fromkeys(np.concatenate(plain).tolist() if plain else []) if not labelling.pinned[n]]
    number = {neuron: k for k, neuron in enumerate(neurons)}
    pairs = []
    for left, right in matched:
        sides = []
        for name in (left, right):
            found = [
                (dim, array.ravel()) for dim, array in enumerate(labelling.axes[name])
                if array.size == array.shape[dim] > 1 and set(array.ravel().tolist()) <= set(number)
            ]  # fmt: skip
            sides.append(found)
        if [len(side) for side in sides] != [1, 1] or sides[0][0][0] != sides[1][0][0]:
            return [], 0
        dim, units = sides[0][0]
        if not np.array_equal(units, sides[1][0][1]):
            return [], 0
        pairs.append(Pair(left, right, dim, np.array([number[n] for n in units.tolist()])))
    complete = all(set(pair.unit.tolist()) == set(range(len(neurons))) for pair in pairs)
    return (pairs, len(neurons)) if pairs and complete else ([], 0)
