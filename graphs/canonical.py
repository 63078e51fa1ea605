"""Canonical forms: one representative of every orbit, so that equal functions get equal weights.

The steps, each equivariant under the steps after it:

1. *non-compact factors* (scales, linear mixing, translations): the point of least norm on the orbit ("balanced" weights);
   scales that nothing holds, as before a batch norm, so that what they multiply has norm one.
   The squared norm is convex along them, so the point is unique where it exists, up to rotations inside linear factors
   ("The length of vectors in representation spaces", Kempf and Ness, 1979);
2. *periods*: biases of sines go into half a period around zero;
3. *signs and phases*: every unit is turned so that cubes of what it computes on fixed inputs have a positive sum;
4. *rotations* inside linear factors: to the principal axes, largest first;
5. *branches* of a product: the larger one first, in every unit;
6. *permutations*: interchangeable blocks are sorted by a key that does not depend on their order.

What rounding cannot decide is reported as a tie, and factors without a rule are named in `left`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from graphs.balancing import balance
from graphs.elements import GroupElement
from graphs.factors import Factor, PermutationFactor
from graphs.group import SymmetryGroup
from graphs.interpreter import interpret
from graphs.neuron_keys import TIE, NeuronKeys, Tie, sorting, ties_of
from graphs.scalings.commutation import SwapFactor
from graphs.scalings.diagonal import DiagonalFactor
from graphs.scalings.linear import LinearFactor
from graphs.scalings.periods import PeriodFactor
from graphs.scalings.rotations import RotationFactor
from graphs.scalings.translations import TranslationFactor

SIGNATURES = 64  # random elements that identify which unit an activation turns with

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class CanonicalForm:
    """The representative of an orbit.

    Args:
        tensors: the canonical tensors, in double precision.
        path: takes the given tensors to the canonical ones.
        ties: what could not be told apart.
        left: factors that were left as they are, with the reason.
    """

    tensors: dict[str, Tensor] = field(repr=False)
    path: GroupElement = field(repr=False)
    ties: tuple[Tie, ...] = ()
    left: tuple[str, ...] = ()

    @cached_property
    def element(self) -> GroupElement:
        """The same as `path`, with its word in the order of the factors."""
        return self.path.in_order()


def canonicalize(group: SymmetryGroup, tensors: Tensors) -> CanonicalForm:
    """The canonical form of one model.

    Args:
        group: its symmetry group.
        tensors: parameters and state buffers by name, `[*shape]`; other names pass through.

    Returns:
        The same tensors for all points of an orbit, up to rounding and ties.
    """
    return _Canonical(group, tensors).run()


def balanced(group: SymmetryGroup, tensors: Tensors) -> CanonicalForm:
    """The first step alone: the point of least norm along scales, linear factors and translations.

    Two models of one orbit have balanced forms that a compact element (permutations, signs, phases, rotations) takes
    into each other, so distances between balanced forms are distances between orbits.

    Args:
        group: the symmetry group.
        tensors: parameters and state buffers by name, `[*shape]`; other names pass through.
    """
    return _Canonical(group, tensors).run(compact=False)


def ordered(group: SymmetryGroup, tensors: Tensors) -> CanonicalForm:
    """The last step alone: the weights as they are, in one order for all models that permutations take into each other.

    Args:
        group: the symmetry group.
        tensors: parameters and state buffers by name, `[*shape]`; other names pass through.
    """
    canonical = _Canonical(group, tensors)
    canonical.sort()
    path = GroupElement(group, tuple(canonical.word))
    return CanonicalForm(canonical.tensors, path, tuple(canonical.ties))


class _Canonical:
    """One canonicalization: the current tensors and the word that led to them."""

    def __init__(self, group: SymmetryGroup, tensors: Tensors) -> None:
        self.group = group
        self.tensors = {name: _wide(tensor.detach()) for name, tensor in tensors.items()}
        self.word: list[tuple[Factor, Tensor]] = []
        self.ties: list[Tie] = []
        self.left: list[str] = []

    def apply(self, factor: Factor, parameters: Tensor) -> None:
        """Move on by one element."""
        self.tensors.update(factor.apply(parameters, self.tensors))
        self.word.append((factor, parameters))

    def run(self, compact: bool = True) -> CanonicalForm:
        """All steps in turn, or only those along non-compact factors."""
        self.tensors, balancing, left = balance(self.group, self.tensors)
        self.left += left
        if compact:
            self.choose()
        path = GroupElement(self.group, (*balancing.word, *self.word))
        return CanonicalForm(self.tensors, path, tuple(self.ties), tuple(self.left))

    def choose(self) -> None:
        """One point of a compact orbit: periods, signs and phases, axes, branches, order."""
        for factor in self.group.factors:
            if isinstance(factor, PeriodFactor):
                self.apply(factor, factor.nearest(self.tensors[factor.leaf.tensor]))
        turning = [f for f in self.group.factors if isinstance(f, DiagonalFactor) and f.question != "positive"]
        if turning:
            self.turn(turning)
        linear = [factor for factor in self.group.factors if isinstance(factor, LinearFactor)]
        self.rotate(linear)
        for factor in self.group.factors:
            if isinstance(factor, RotationFactor):
                angle = factor.principal(self.tensors)
                if angle is None or {t.tensor for t in factor.turned} & {m.tensor for f in linear for m in f.mixed}:
                    self.left.append(f"{factor.name}: no pair of it is met alone")
                else:
                    self.apply(factor, angle)
        swaps = [factor for factor in self.group.factors if isinstance(factor, SwapFactor)]
        for swap in swaps:
            self.apply(swap, self.larger_first(swap))
        if swaps and turning:  # which of two branches tells a sign depends on their order
            self.turn(turning)
            self.left = list(dict.fromkeys(self.left))
        self.sort()
        chosen = DiagonalFactor | LinearFactor | RotationFactor | TranslationFactor | SwapFactor | PermutationFactor
        for factor in self.group.factors:
            if not isinstance(factor, chosen):
                self.left.append(f"{factor.name}: {factor.kind} has no canonical choice")

    def sort(self) -> None:
        """Bring all interchangeable blocks in the order of their keys."""
        keys = NeuronKeys(self.group)(self.tensors)
        for factor in self.group.factors:
            if isinstance(factor, PermutationFactor):
                order, ties = sorting(factor, keys)
                self.ties += ties
                self.apply(factor, order)
                keys = torch.empty_like(keys).scatter(-1, torch.from_numpy(factor.label_map(order)), keys)

    # --- signs and phases -------------------------------------------------------------------------------------------

    def turn(self, factors: list[DiagonalFactor]) -> None:
        """Turn every unit so that the sum of x |x|² over what it computes on fixed inputs is positive.

        What turns with several units at once tells the last of them once the others are chosen: hence rounds. What
        rotations move, whose axes are chosen later, tells nothing; and values without a dependence on the inputs
        (weights alone) are only asked once activations have nothing more to tell.
        """
        rotating = [f for f in self.group.factors if isinstance(f, LinearFactor | RotationFactor)]
        program = self.group.program
        names = list(program.tensors)
        inputs = _inputs(self.group)
        generator = torch.Generator().manual_seed(5)
        draws = SIGNATURES if any(f.question == "sign" for f in factors) else 4
        open_ = [torch.ones(f.count, dtype=torch.bool) for f in factors]
        progress = True
        driven, all_asked = program.depends_on_inputs(), False
        while progress and any(bool(still.any()) for still in open_):
            plain = interpret(program, {name: self.tensors[name] for name in names}, inputs)
            runs, elements = [], []
            for _ in range(draws):
                element = [
                    (f, torch.where(still, f.sample(generator), f.identity()))
                    for f, still in zip(factors, open_, strict=True)
                ]
                changed = dict(self.tensors)
                for f, parameters in element:
                    changed.update(f.apply(parameters, changed))
                runs.append(interpret(program, {name: changed[name] for name in names}, inputs))
                elements.append(element)
            changed = dict(self.tensors)
            for turn in rotating:
                changed.update(turn.apply(turn.sample(generator), changed))
            rotated = interpret(program, {name: changed[name] for name in names}, inputs)
            steady = {
                value: torch.isclose(rotated[value], found, rtol=1e-6, atol=0)
                for value, found in plain.items()
                if all_asked or driven[value]
            }
            progress = False
            for number, factor in enumerate(factors):
                signatures = torch.stack([_turns(factor, element[number][1]) for element in elements])  # [run, k]
                parameters, missing = self.angles(factor, open_[number], signatures, plain, runs, steady)
                progress |= not torch.equal(missing, open_[number])
                open_[number] = missing
                self.apply(factor, parameters)
            if not progress and not all_asked:
                progress = all_asked = True
        for factor, still in zip(factors, open_, strict=True):
            if still.any():
                self.left.append(f"{factor.name}: {int(still.sum())} of {factor.count} turn no activation alone")

    def angles(
        self, factor: DiagonalFactor, asked: Tensor, signatures: Tensor, plain: dict[int, Tensor],
        runs: list[dict[int, Tensor]], steady: dict[int, Tensor],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The turn of every generator asked for, from the first value that turns with it and with nothing else.

        Returns:
            The element, and `[count]` which generators turn no value alone.
        """
        parameters = factor.identity()
        open_ = set(asked.nonzero().flatten().tolist())
        probe = torch.randn(len(signatures), generator=torch.Generator().manual_seed(6), dtype=torch.float64)
        wanted, near = probe.to(signatures.dtype) @ signatures, 1e-6 * float(probe.abs().sum())
        for op in self.group.program.ops:
            for value in op.outputs:
                if value is None or not open_ or value not in steady:
                    continue
                before = plain[value].flatten()
                if not (before.is_floating_point() or before.is_complex()) or not len(before):
                    continue
                ratio = torch.stack([run[value].flatten() for run in runs]) / before  # [run, entry]
                turning = ((ratio.abs() - 1).abs() < 1e-6).all(0) & ((ratio - 1).abs() > 1e-6).any(0)
                turning &= steady[value].flatten()
                before, ratio = before[turning].to(signatures.dtype), ratio[:, turning].to(signatures.dtype)
                alike = (wanted[:, None] - probe.to(ratio.dtype) @ ratio).abs() < near  # all that match are among them
                for k in sorted(open_.intersection(alike.any(1).nonzero().flatten().tolist())):
                    match = alike[k] & ((ratio - signatures[:, k : k + 1]).abs() < 1e-6).all(0)
                    if match.any():
                        found = before[match]
                        amount = (found * found.abs().square()).sum()  # sums may vanish, as of what is centred
                        if factor.question == "sign":
                            parameters[k] = int(amount.real < 0)
                        else:
                            parameters[k] = -torch.angle(amount)
                        open_.remove(k)
        return parameters, torch.tensor([k in open_ for k in range(factor.count)])

    def larger_first(self, factor: SwapFactor) -> Tensor:
        """The branch with the larger cubes to the left, in every unit; squares are equal once scales are balanced."""
        lead = torch.zeros(factor.count, dtype=torch.float64)
        for number, pair in enumerate(factor.pairs, start=1):
            left, right = (_cubes(self.tensors[name], pair.dim) for name in (pair.left, pair.right))
            lead.index_add_(0, torch.as_tensor(pair.unit), (left - right) / number)
        return (lead < 0).long()

    # --- rotations --------------------------------------------------------------------------------------------------

    def rotate(self, factors: list[LinearFactor]) -> None:
        """Turn the axes of linear factors to the principal ones; those that lean on no later factor come first."""
        waiting = list(factors)
        while waiting:
            ready = [f for f in waiting if self.fixed_sides(f, waiting)]
            if not ready:
                self.left += [f"{f.name}: no side of it is fixed" for f in waiting]
                return
            factor = ready[0]
            waiting.remove(factor)
            self.principal(factor, self.fixed_sides(factor, [*waiting, factor]))

    def fixed_sides(self, factor: LinearFactor, waiting: list[LinearFactor]) -> list[int]:
        """Sides of a factor on tensors that no other waiting factor mixes."""
        others = {m.tensor for other in waiting if other is not factor for m in other.mixed}
        return [k for k, m in enumerate(factor.mixed) if m.tensor not in others]

    def principal(self, factor: LinearFactor, sides: list[int]) -> None:
        """Rotate to the eigenvectors of the Gram matrix of all sides it acts on directly, signs by an odd statistic."""
        gram = torch.zeros_like(factor.identity())
        for m in factor.mixed:
            part = _part(self.tensors[m.tensor], m.dim, m.positions)
            gram += (
                (-1 if m.inverse else 1)
                * torch.einsum("ecrn,ecrm->cnm", part, part.conj()).real
                * (0 if m.inverse else 1)
            )
        values, vectors = torch.linalg.eigh(gram)
        values, vectors = values.flip(-1), vectors.flip(-1)
        spread = values[:, :1].clamp_min(1e-300)
        self.ties += ties_of(factor.name, values.diff(dim=-1).abs() <= TIE * spread)
        rotated = torch.zeros(factor.copies, factor.size, dtype=torch.float64)
        for k in sides:
            m = factor.mixed[k]
            part = _part(self.tensors[m.tensor], m.dim, m.positions)
            rotated = rotated + torch.einsum("ecrn,cnm->ecrm", part, vectors.to(part.dtype)).real.pow(3).sum((0, 2))
        vectors = vectors * torch.where(rotated < 0, -1.0, 1.0)[:, None, :]
        self.apply(factor, vectors.mT.contiguous())


def _cubes(tensor: Tensor, dim: int) -> Tensor:
    """Σ |x|³ of every slice of a dimension."""
    return tensor.abs().pow(3).movedim(dim, 0).flatten(1).sum(1) if tensor.ndim > 1 else tensor.abs().pow(3)


def _turns(factor: DiagonalFactor, parameters: Tensor) -> Tensor:
    """By what every generator multiplies, `[k]`."""
    if factor.question == "sign":
        return (1.0 - 2.0 * parameters).to(torch.complex128)
    return torch.polar(torch.ones_like(parameters), parameters)


def _part(tensor: Tensor, dim: int, positions: object) -> Tensor:
    """The entries a linear factor mixes, `[rest, copies, repeats, n]`."""
    index = torch.as_tensor(positions)
    return tensor.movedim(dim, -1)[..., index].flatten(0, -4) if tensor.ndim > 1 else tensor[index][None]


def _inputs(group: SymmetryGroup) -> list[Tensor]:
    """Fixed generic inputs of the program; integer inputs are zero."""
    generator = torch.Generator().manual_seed(7)
    found = []
    for value in group.program.inputs:
        shape, dtype = group.program.values[value].shape, group.program.values[value].dtype
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        found.append(noise if dtype.is_floating_point else torch.zeros(shape, dtype=dtype))
    return found


def _wide(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor
