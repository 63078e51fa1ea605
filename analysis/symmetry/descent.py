"""Coordinate descent over the compact factors of a group: bring one model as close to another as symmetry allows.

Minimised is ‖A − g·B‖² over the parameters. With all other factors held, one factor's best element is found exactly:

* permutations: a linear assignment of blocks (the Hungarian method), together with the signs, phases and swaps that
  belong to a block alone;
* blocks with something inside (heads, groups of channels): first the best inside for every pair of blocks, then the
  assignment of blocks;
* linear factors: the orthogonal Procrustes rotation;
* signs, phases, swaps and periods that no block owns: every one by itself.

"Git Re-Basin: Merging Models modulo Permutation Symmetries" (Ainsworth, Hayase and Srinivasa, 2023) is the case of
permutations in a chain of layers. Where blocks stand twice in one tensor (recurrent weights) the assignment problem is
quadratic: it is linearised, improved by the Frank–Wolfe method, and a step is only taken if it brings the models closer.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from analysis.symmetry.occurrences import matrices_of
from analysis.symmetry.owned import Indices
from analysis.symmetry.plan import Own, Plan, bits_at
from graphs.factors import Factor, PermutationFactor, Tensors
from graphs.scalings.commutation import SwapFactor
from graphs.scalings.diagonal import DiagonalFactor
from graphs.scalings.linear import LinearFactor, Mixed
from graphs.scalings.periods import PeriodFactor
from graphs.scalings.rotations import RotationFactor
from metanets.alignment import assignment

PAIRED = 32  # blocks up to which the insides of all pairs are matched
STEPS = 20  # of Frank–Wolfe
INNER_SWEEPS = 10  # over what a pair of blocks holds
GAIN = 1e-12  # of the squared norm; less is rounding


class Descent:
    """One model on its way to another.

    Args:
        plan: of their group.
        reference: where to, double precision.
        tensors: from where, double precision.
    """

    def __init__(self, plan: Plan, reference: Tensors, tensors: Tensors) -> None:
        self.plan = plan
        self.reference = {name: reference[name] for name in plan.parameters}
        self.tensors = dict(tensors)
        self.word: list[tuple[Factor, Tensor]] = []
        self.softened: set[str] = set()
        self.settled: dict[str, dict[str, Tensor]] = {}  # what a factor saw when it had nothing left to do
        self.known: float | None = None  # the squared distance, while B stands where it was measured
        self.tables: dict[
            tuple[str, int], tuple[Tensor, Tensor]
        ] = {}  # overlaps by occurrence, and of which tensor of B
        self.measured: dict[str, tuple[Tensor, float]] = {}  # of every tensor, where it was last measured
        self.scale = sum(float(torch.linalg.vector_norm(tensor)) ** 2 for tensor in self.reference.values()) or 1.0

    def squared_distance(self) -> float:
        """‖A − B‖² over the parameters, for B as it stands."""
        if self.known is None:
            for name, tensor in self.reference.items():
                now = self.tensors[name]
                if name not in self.measured or self.measured[name][0] is not now:
                    self.measured[name] = (now, float(torch.linalg.vector_norm(tensor - now)) ** 2)
            self.known = sum(value for _, value in self.measured.values())
        return self.known

    def apply(self, factor: Factor, parameters: Tensor) -> None:
        """Move B by one element."""
        if torch.equal(parameters, factor.identity().to(parameters.dtype)):
            return
        self.tensors.update(factor.apply(parameters, self.tensors))
        self.word.append((factor, parameters))
        self.known = None

    def go_back(
        self, tensors: dict[str, Tensor], word: list[tuple[Factor, Tensor]], known: float | None = None
    ) -> None:
        """Stand again where B stood before."""
        self.tensors, self.word, self.known = tensors, word, known

    def run(self, sweeps: int, generator: np.random.Generator, held: Sequence[str] = ()) -> int:
        """Sweep over all factors but those held, in random order, until nothing brings the models closer.

        Returns:
            the number of sweeps.
        """
        before = self.squared_distance()
        for sweep in range(sweeps):
            order = [factor for factor in (self.plan.moving if held else self.plan.outer) if factor.name not in held]
            generator.shuffle(order)
            for factor in order:
                self.visit(factor)
            after = self.squared_distance()
            if before - after <= GAIN * self.scale:
                return sweep + 1
            before = after
        return sweeps

    def visit(self, factor: Factor) -> None:
        """One factor's step, unless nothing that it sees has changed since a step of it would lead nowhere."""
        names = self.plan.seen_by[factor.name]
        known = self.settled.get(factor.name)
        if known is not None and all(known[name] is self.tensors[name] for name in names):
            return
        before = {name: self.tensors[name] for name in names}
        self.attempt(factor)
        after = {name: self.tensors[name] for name in names}
        still = all(before[name] is after[name] for name in names)
        if still or factor.name in self.plan.solved_at_once:
            self.settled[factor.name] = after

    def attempt(self, factor: Factor, only: Indices | None = None) -> None:
        """One factor's step, taken back unless it brings the models closer.

        Args:
            factor: which.
            only: generators that may move, None for all.
        """
        tensors, length, before = dict(self.tensors), len(self.word), self.squared_distance()
        self.step(factor, only)
        if before - self.squared_distance() <= GAIN * self.scale:
            self.go_back(tensors, self.word[:length], before)

    def step(self, factor: Factor, only: Indices | None = None) -> None:
        """The best element of one factor with all others held."""
        if isinstance(factor, PermutationFactor):
            inside = self.plan.inside(factor.name)
            if inside and self.plan.blocks[factor.name].count <= PAIRED:
                self.assign_with_insides(factor)
            else:
                self.assign(factor)
                self.match_insides(inside)
        elif isinstance(factor, LinearFactor):
            self.apply(factor, self.rotation(factor, only))
        elif isinstance(factor, RotationFactor):
            angle = factor.nearest(self.reference, self.tensors)
            self.apply(factor, angle if only is None else torch.where(_chosen(factor.copies, only), angle, 0.0))
        elif isinstance(factor, PeriodFactor):
            leaf = factor.leaf
            gap = self.reference[leaf.tensor] - self.tensors[leaf.tensor]
            self.apply(factor, (gap.flatten()[leaf.positions.flatten()] / factor.step).round())
        elif isinstance(factor, SwapFactor):
            self.apply(factor, self.swaps(factor))
        elif isinstance(factor, DiagonalFactor):
            self.apply(factor, self.turns(factor))

    # --- permutations -----------------------------------------------------------------------------------------------

    def assign(self, factor: PermutationFactor) -> None:
        """Assign blocks, with the signs, swaps and phases they own; where that is not exact, also by Frank–Wolfe."""
        blocks = self.plan.blocks[factor.name]
        start, length = dict(self.tensors), len(self.word)
        self.assign_once(factor)
        if blocks.exact or factor.name in self.softened:
            return
        self.softened.add(factor.name)  # once is enough, the sweeps refine what it found
        best, tensors, word = self.squared_distance(), self.tensors, self.word[length:]
        self.go_back(start, self.word[:length])
        self.apply(factor, self.frank_wolfe(factor))
        self.assign_once(factor)
        if self.squared_distance() > best:
            self.go_back(tensors, [*self.word[:length], *word], best)

    def assign_once(self, factor: PermutationFactor) -> None:
        """One linear assignment of blocks, with what they own, from their overlaps as they stand."""
        name = factor.name
        (swaps, signs), phase = self.plan.swaps_and_signs(name), self.plan.phase(name)
        choices: list[tuple[int, ...]] = []
        overlaps, angles = [], []
        for swapped in itertools.product((0, 1), repeat=len(swaps)):
            turned = self.patterned(swaps, swapped)
            found = [self.by_parity(name, tensors) for tensors in _phases(phase, turned)]
            for bits in itertools.product((0, 1), repeat=len(signs)):
                overlap, angle = best_phase([signed(tables, bits) for tables in found])
                choices.append((*swapped, *bits))
                overlaps.append(overlap)
                angles.append(angle)
            if not any(swapped):
                now = signed(found[0], (0,) * len(signs))
        best, choice = (overlaps[0], None) if len(overlaps) == 1 else torch.stack(overlaps).max(0)  # [copies, m, m]
        order, before = assignment(best), self.squared_distance()
        gain = 2 * float((best.gather(-1, order[..., None])[..., 0] - now.diagonal(dim1=-2, dim2=-1)).sum())
        tight = name in self.plan.tight
        if tight and gain <= GAIN * self.scale:
            return
        start, chosen = dict(self.tensors), None
        self.apply(factor, order.argsort(-1))
        picked = (torch.arange(len(order))[:, None], torch.arange(order.shape[1]), order)
        if choice is not None:
            chosen = torch.tensor(choices)[choice[picked]]  # [copies, m, kinds]
            for k, (other, numbers) in enumerate((*swaps, *signs)):
                self.apply(other, bits_at(other, numbers, chosen[..., k]))
        if phase is not None:
            turns = torch.stack(angles)[0 if choice is None else choice[picked], *picked]
            self.apply(phase[0], bits_at(*phase, turns))
        if tight:
            self.known = before - gain
            if not swaps and phase is None:
                self.carry(name, start, order, chosen)

    def by_parity(self, name: str, tensors: Tensors) -> dict[int, Tensor]:
        """K[c, i, j] = Σ ⟨A_i, B_j⟩ over the entries that the same kinds of signs turn, `[copies, m, m]` each."""
        found: dict[int, Tensor] = {}
        for number, (occurrence, code, where) in enumerate(self.plan.parities[name]):
            tensor = tensors[occurrence.tensor]
            known, table = self.tables.get((name, number), (None, None))
            if table is None or known is not tensor:
                turned = tensor if where is None else tensor * where
                table = occurrence.overlap(self.reference[occurrence.tensor], turned)
                if tensor is self.tensors[occurrence.tensor]:
                    self.tables[name, number] = (tensor, table)
            found[code] = found[code] + table if code in found else table
        return found

    def carry(self, name: str, before: Tensors, order: Tensor, bits: Tensor | None) -> None:
        """The overlaps of blocks that have just been assigned, `[copies, m]` by `order` and turned by `bits`, without products."""
        for number, (occurrence, code, _) in enumerate(self.plan.parities[name]):
            known, table = self.tables.pop((name, number), (None, None))
            if table is None or known is not before[occurrence.tensor]:
                continue
            moved = torch.stack([own.index_select(-1, places) for own, places in zip(table, order, strict=True)])
            if bits is not None and code:
                odd = bits[..., [k for k in range(bits.shape[-1]) if code >> k & 1]].sum(-1) % 2
                moved = moved * (1 - 2 * odd)[:, None]
            self.tables[name, number] = (self.tensors[occurrence.tensor], moved)

    def patterned(self, kinds: list[tuple[Factor, Indices]], pattern: tuple[int, ...]) -> Tensors:
        """B with the same kinds of swaps made in every block."""
        turned = self.tensors
        for (factor, numbers), bit in zip(kinds, pattern, strict=True):
            if bit:
                turned = {**turned, **factor.apply(bits_at(factor, numbers), turned)}
        return turned

    def assign_with_insides(self, factor: PermutationFactor) -> None:
        """Match the insides of all pairs of blocks, then assign the blocks by what that gave."""
        blocks, inside = self.plan.blocks[factor.name], self.plan.inside(factor.name)
        start, length = dict(self.tensors), len(self.word)
        every = torch.arange(blocks.count)
        values = torch.zeros(blocks.copies, blocks.count, blocks.count, dtype=torch.float64)
        for shift in range(blocks.count):  # block i of A beside block i + shift of B, all i at once
            self.apply(factor, (every - shift).remainder(blocks.count).expand(blocks.copies, -1))
            self.match_insides(inside)
            values[:, every, (every + shift) % blocks.count] = blocks.values(self.reference, self.tensors)
            self.go_back(dict(start), self.word[:length])
        self.apply(factor, assignment(values).argsort(-1))
        self.match_insides(inside)

    def match_insides(self, inside: list[Own]) -> None:
        """Descend over what blocks hold, until it stands."""
        before = self.squared_distance()
        for _ in range(INNER_SWEEPS):
            for own in inside:
                self.attempt(own.factor, own.numbers)
            after = self.squared_distance()
            if len(inside) == 1 or before - after <= GAIN * self.scale:
                return
            before = after

    def frank_wolfe(self, factor: PermutationFactor) -> Tensor:
        """Climb the overlap over doubly stochastic matrices from the flat point; the nearest permutation of the end."""
        blocks = self.plan.blocks[factor.name]
        start = {name: self.tensors[name] for name in blocks.tensors}
        reference = {name: self.reference[name] for name in start}
        soft = (torch.eye(blocks.count) + 1 / blocks.count).double().repeat(blocks.copies, 1, 1) / 2

        def overlap(matrices: Tensor) -> Tensor:
            return inner(reference, blocks.mix(matrices, start))

        for _ in range(STEPS):
            soft.requires_grad_()
            level = overlap(soft)
            (slope,) = torch.autograd.grad(level, soft)
            soft = soft.detach()
            corner = matrices_of(assignment(slope).argsort(-1))
            size, gain = best_step(lambda t: float(overlap(soft + t * (corner - soft))), float(level.detach()))  # noqa: B023
            if gain <= GAIN * self.scale:
                break
            soft = soft + size * (corner - soft)
        return assignment(soft).argsort(-1)

    # --- everything else --------------------------------------------------------------------------------------------

    def rotation(self, factor: LinearFactor, only: Indices | None = None) -> Tensor:
        """The orthogonal Procrustes solution of every copy: U Vᵀ of Σ A_part B_partᵀ."""
        total = torch.zeros_like(factor.identity())
        for m in factor.mixed:
            if m.tensor in self.reference:
                a, b = part_of(self.reference[m.tensor], m), part_of(self.tensors[m.tensor], m)
                total += torch.einsum("recsn,recsm->cnm", a, b.conj()).real
        left, _, right = torch.linalg.svd(total)
        found = left @ right
        if only is not None:
            found = torch.where(_chosen(factor.copies, only)[:, None, None], found, factor.identity())
        return found

    def swaps(self, factor: SwapFactor) -> Tensor:
        """Every unit's swap by itself: ⟨A_left, B_right⟩ + ⟨A_right, B_left⟩ against ⟨A_left, B_left⟩ + ⟨A_right, B_right⟩."""
        gain = torch.zeros(factor.count, dtype=torch.float64)
        for pair in factor.pairs:
            a, b = ([_rows(part[name], pair.dim) for name in (pair.left, pair.right)] for part in (self.reference, self.tensors))  # fmt: skip
            gain.index_add_(0, torch.as_tensor(pair.unit), ((a[0] - a[1]) * (b[1] - b[0]).conj()).real.sum(1))
        return (gain > 0).long()

    def turns(self, factor: DiagonalFactor) -> Tensor:
        """Signs or phases, every generator by itself."""
        amount = torch.zeros(factor.count, dtype=torch.complex128)
        for term in factor.exponents:
            if term.tensor not in self.reference or term.additive:
                continue
            sign = factor.question == "sign"
            product = self.reference[term.tensor] * self.tensors[term.tensor].conj()
            gone = [d for d, size in enumerate(term.shape) if size == 1]
            product = product.real if sign else product
            reduced = (product.sum(gone, keepdim=True) if gone else product).flatten()
            index, coefficient = torch.from_numpy(term.index), torch.from_numpy(term.coefficient)
            part = reduced[:, None] * coefficient.remainder(2)
            if not sign:
                turned = torch.where(coefficient > 0, reduced[:, None], reduced[:, None].conj())
                part = torch.where(coefficient.abs() == 1, turned, 0)
            amount.index_add_(0, index.flatten(), part.flatten().to(torch.complex128))
        return (amount.real < 0).long() if factor.question == "sign" else torch.angle(amount)


def signed(tables: Mapping[int, Tensor], bits: Sequence[int]) -> Tensor:
    """The overlap once kinds of signs are turned: the tables by parity, those turned an odd number of times negative."""
    total: Tensor | None = None
    for code, table in tables.items():
        odd = sum(bit & code >> k for k, bit in enumerate(bits)) % 2
        part = -table if odd else table
        total = part if total is None else total + part
    return torch.zeros(0, 0, 0) if total is None else total


def _phases(phase: tuple[Factor, Indices] | None, tensors: Tensors) -> list[Tensors]:
    """B, and with the phases of all blocks turned by π and by π/2, which tells its overlap at every angle."""
    if phase is None:
        return [tensors]
    factor, numbers = phase
    turned = (factor.apply(bits_at(factor, numbers, angle), tensors) for angle in (np.pi, np.pi / 2))
    return [tensors, *({**tensors, **part} for part in turned)]


def best_phase(overlaps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Overlaps at the best phase of every pair, and that phase: c + a cos φ + b sin φ through the angles of `_phases`."""
    if len(overlaps) == 1:
        return overlaps[0], overlaps[0].new_zeros(1).expand_as(overlaps[0])
    constant, cosine = (overlaps[0] + overlaps[1]) / 2, (overlaps[0] - overlaps[1]) / 2
    sine = overlaps[2] - constant
    return constant + torch.hypot(cosine, sine), torch.atan2(sine, cosine)


def inner(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Tensor:
    """Σ Re⟨A, B⟩ over the names of the first."""
    return sum(((a.conj() * right[name]).real.sum() for name, a in left.items()), torch.zeros((), dtype=torch.float64))


def squared_distance(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """‖A − B‖² over the names of the first."""
    return float(sum(float((tensor - right[name]).abs().square().sum()) for name, tensor in left.items()))


def best_step(value: Callable[[float], float], at_zero: float, degree: int = 4) -> tuple[float, float]:
    """The best step in [0, 1] along a line on which the value is a polynomial of at most this degree, and its gain."""
    points = np.linspace(0, 1, degree + 1)
    heights = np.array([at_zero, *(value(float(t)) for t in points[1:])])
    polynomial = np.polynomial.Polynomial.fit(points, heights, degree)
    roots = np.asarray(polynomial.deriv().roots(), np.complex128)
    inside = roots.real[(abs(roots.imag) < 1e-9) & (roots.real > 0) & (roots.real < 1)].tolist()
    t = max([0.0, 1.0, *inside], key=lambda t: float(polynomial(t)))
    return t, value(t) - at_zero


def part_of(tensor: Tensor, m: Mixed) -> Tensor:
    """The entries a linear factor mixes, `[1, rest, copies, repeats, n]`."""
    moved = tensor.movedim(m.dim, -1)[..., torch.as_tensor(m.positions)]
    return moved.flatten(0, -4)[None] if tensor.ndim > 1 else moved[None, None]


def _chosen(copies: int, only: Indices) -> Tensor:
    """Which copies of a factor may move."""
    chosen = torch.zeros(copies, dtype=torch.bool)
    chosen[torch.from_numpy(only.ravel())] = True
    return chosen


def _rows(tensor: Tensor, dim: int) -> Tensor:
    return tensor.movedim(dim, 0).flatten(1) if tensor.ndim > 1 else tensor[:, None]
