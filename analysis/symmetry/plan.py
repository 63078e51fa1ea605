"""What a symmetry group offers to a coordinate descent: which factors it moves, and what blocks own alone."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from analysis.symmetry.occurrences import Blocks, Occurrence, Places, parameters_of
from analysis.symmetry.owned import Indices, owned
from graphs.factors import Factor, PermutationFactor
from graphs.group import SymmetryGroup
from graphs.scalings.commutation import SwapFactor
from graphs.scalings.diagonal import DiagonalFactor
from graphs.scalings.linear import LinearFactor
from graphs.scalings.periods import PeriodFactor
from graphs.scalings.rotations import RotationFactor

KINDS = 3  # signs and swaps of a block that are tried in all combinations with its assignment


class Own(NamedTuple):
    """Generators that blocks own: the factor, and their numbers `[copies, m, kinds]`."""

    factor: Factor
    numbers: Indices


class Parity(NamedTuple):
    """Entries of an occurrence that the same kinds of signs turn: bit k of the code is set if kind k does."""

    occurrence: Occurrence
    code: int
    where: Tensor | None  # of the tensor's shape, None for all of it


class Plan:
    """What a group offers to a descent: made once, used for every pair of models.

    Args:
        group: the group.
        places: labels and shapes of the tensors that are compared; None for the parameters.
    """

    def __init__(self, group: SymmetryGroup, places: Places | None = None) -> None:
        self.group = group
        places = parameters_of(group) if places is None else places
        self.parameters = tuple(places)
        self.shapes = {name: shape for name, (_, shape) in places.items()}
        self.blocks = {f.name: Blocks(group, f, places) for f in group.factors if isinstance(f, PermutationFactor)}
        self.owns: dict[str, list[Own]] = {}
        for name, blocks in self.blocks.items():
            found = [(f, owned(blocks, f)) for f in group.factors if f is not blocks.factor]
            self.owns[name] = [Own(f, numbers) for f, numbers in found if numbers is not None]
        inner = {own.factor.name for own in itertools.chain(*self.owns.values()) if is_inner(own.factor)}
        self.moving = [f for f in group.factors if self.moves(f)]
        self.outer = [f for f in self.moving if f.name not in inner]  # what is inside comes with its blocks
        self.seen_by = {f.name: self._seen_by(f) for f in self.moving}
        swapped = [{pair.left, pair.right} for f in group.factors if isinstance(f, SwapFactor) for pair in f.pairs]
        self.together = united([{name} for name in self.parameters] + [pair & set(places) for pair in swapped])
        self.parities = {name: self._parities(name) for name in self.blocks}
        self.tight = {name for name in self.blocks if self._is_tight(name)}
        self.solved_at_once = {name for name in self.tight if not self.inside(name) and self._takes_all(name)}

    def _seen_by(self, factor: Factor) -> list[str]:
        """The compared tensors that a factor and what its blocks own act on."""
        factors = [factor, *(own.factor for own in self.owns.get(factor.name, ()))]
        names = {slot.tensor for f in factors for slot in f.slots}
        return [name for name in self.parameters if name in names]

    def moves(self, factor: Factor) -> bool:
        """Whether a descent moves this factor: what is compact or discrete, and GL along its rotations."""
        if isinstance(factor, DiagonalFactor):
            return factor.question != "positive"
        return isinstance(factor, PermutationFactor | LinearFactor | RotationFactor | SwapFactor | PeriodFactor)

    def inside(self, name: str) -> list[Own]:
        """What must be matched inside a pair of blocks before the blocks can be compared."""
        return [own for own in self.owns[name] if is_inner(own.factor)]

    def kinds(self, name: str) -> list[tuple[Factor, Indices]]:
        """Swaps and signs of single blocks, one entry a kind, `[copies, m]`, swaps first; at most `KINDS` of them."""
        found: list[tuple[Factor, Indices]] = [
            (own.factor, own.numbers[..., k])
            for swap in (True, False)
            for own in self.owns[name]
            if isinstance(own.factor, SwapFactor) == swap and (swap or _is_sign(own.factor))
            for k in range(own.numbers.shape[-1])
        ]
        return found[:KINDS]

    def swaps_and_signs(self, name: str) -> tuple[list[tuple[Factor, Indices]], list[tuple[Factor, Indices]]]:
        """The kinds of single blocks apart."""
        kinds = self.kinds(name)
        count = sum(isinstance(factor, SwapFactor) for factor, _ in kinds)
        return kinds[:count], kinds[count:]

    def _parities(self, name: str) -> list[Parity]:
        """The occurrences of blocks by the kinds of signs that turn their entries."""
        found, blocks = [], self.blocks[name]
        signs = self.swaps_and_signs(name)[1]
        for occurrence in blocks.occurrences:
            ones = {occurrence.tensor: torch.ones(self.shapes[occurrence.tensor], dtype=torch.int8)}
            code = torch.zeros((), dtype=torch.int8)
            for k, (factor, numbers) in enumerate(signs):
                turned = factor.apply(bits_at(factor, numbers), ones).get(occurrence.tensor)
                code = code if turned is None else code + (turned < 0) * 2**k
            codes = code.unique().tolist()
            found += [Parity(occurrence, c, None if len(codes) == 1 else code == c) for c in codes]
        return found

    def _is_tight(self, name: str) -> bool:
        """Whether the overlaps of blocks tell by how much a step changes the distance."""
        blocks = self.blocks[name]
        moved = {slot.tensor for own in self.owns[name] if not is_inner(own.factor) for slot in own.factor.slots}
        return blocks.exact and blocks.complete and moved & set(self.parameters) <= set(blocks.tensors)

    def _takes_all(self, name: str) -> bool:
        """Whether a step chooses all that single blocks own."""
        own = sum(own.numbers.shape[-1] for own in self.owns[name])
        return own == len(self.kinds(name)) + (self.phase(name) is not None)

    def phase(self, name: str) -> tuple[Factor, Indices] | None:
        """The phases of single blocks, where they are of one kind."""
        for own in self.owns[name]:
            if isinstance(own.factor, DiagonalFactor) and own.factor.question == "phase" and own.numbers.shape[-1] == 1:
                return own.factor, own.numbers[..., 0]
        return None


def united(groups: Sequence[set[str]]) -> list[set[str]]:
    """Groups that have a member in common as one."""
    found: list[set[str]] = []
    for group in groups:
        touched = [other for other in found if other & group]
        found = [other for other in found if other not in touched] + [group.union(*touched)]
    return found


def _is_sign(factor: Factor) -> bool:
    return isinstance(factor, DiagonalFactor) and factor.question == "sign"


def bits_at(factor: Factor, numbers: Indices, value: float | Tensor = 1) -> Tensor:
    """The parameters of a factor with one value at some of its generators, and the identity's at all others."""
    bits = factor.identity()
    bits[torch.from_numpy(numbers)] = torch.as_tensor(value, dtype=bits.dtype)
    return bits


def is_inner(factor: Factor) -> bool:
    """Whether a factor moves what blocks hold, which is matched before the blocks are."""
    return isinstance(factor, PermutationFactor | LinearFactor | RotationFactor)
