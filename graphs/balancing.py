"""The point of least norm on an orbit, along scales, linear factors and translations: "balanced" weights.

Newton's method in the coordinates of the group at the point where it stands. What scales alone move is known in closed
form (`ScaledNorm`), everything else is differentiated; large systems are solved by conjugate gradients, preconditioned
by what the scales of one unit do to each other.

With translations the norm may have several least points along an orbit. So the way to one starts where the orbit has one
point: what translations shift first is brought to mean zero, then the norm is least along all the rest, which is convex.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.sparse import csc_array, diags_array
from scipy.sparse.linalg import splu
from torch import Tensor

from graphs.elements import GroupElement
from graphs.factors import Factor
from graphs.group import SymmetryGroup
from graphs.scalings.diagonal import DiagonalFactor
from graphs.scalings.linear import LinearFactor
from graphs.scalings.scaled_norm import Part, ScaledNorm, exponents_of, scales_of
from graphs.scalings.shifted_norm import ShiftedNorm
from graphs.scalings.translations import TranslationFactor
from graphs.scalings.unheld import unheld

NEWTON_STEPS = 60
PRECISION = 1e-14  # slope of the squared norm, relative to it, at which a point counts as the least
NEARLY = 1e-9  # below it, a slope that no longer falls is rounding
FAR = 1e-2  # slope beyond which the Hessian is convexified
LONGEST_STEP = 2.0
DENSE = 400  # unknowns up to which the Hessian is formed
FLAT = 1e-14  # of the largest curvature: below it a direction has none
INDEFINITE = 1e-9  # of the largest curvature: a negative one beyond it is no rounding
RIDGE = 1e-10  # of the largest curvature, so that flat directions can be factored too
EXACT = 1e-12  # residual of an iterative solution; less is asked far from the least norm
CENTRED = 1e-13  # mean of what a translation shifts, relative to its entries, that counts as zero
UNBOUNDED = 15.0  # log-scales beyond: a unit without weights on one side has no least norm

Tensors = Mapping[str, Tensor]


def balance(group: SymmetryGroup, tensors: Tensors) -> tuple[dict[str, Tensor], GroupElement, list[str]]:
    """The balanced point.

    Args:
        group: the symmetry group.
        tensors: in double precision, by name.

    Returns:
        The tensors there, the element that led there (its word is not in the order of the factors), and what has no least norm.
    """
    factors = [factor for factor in group.factors if factor.dimension and not _is_compact(factor)]
    if not factors:
        return dict(tensors), group.identity(), []
    shifts = [factor for factor in factors if isinstance(factor, TranslationFactor)]
    rest = [factor for factor in factors if not isinstance(factor, TranslationFactor)]
    if not (shifts and rest):
        return _Balance(group, factors, tensors).run()
    centred, word = _centred(shifts, tensors)
    start, moved, _ = _Balance(group, rest, centred).run()
    found, last, reasons = _Balance(group, factors, start).run()
    return found, GroupElement(group, (*word, *moved.word, *last.word)), reasons


def _centred(
    shifts: list[TranslationFactor], tensors: Tensors
) -> tuple[dict[str, Tensor], list[tuple[Factor, Tensor]]]:
    """Everything that translations shift at mean zero, and how it got there: one may shift what another starts from."""
    now, word = dict(tensors), list[tuple[Factor, Tensor]]()
    for _ in shifts:
        settled = True
        for factor in shifts:
            parameters = factor.centring(now)
            if float(parameters.abs().max()) > CENTRED * (1 + float(now[factor.leaf.tensor].abs().max())):
                now.update(factor.apply(parameters, now))
                word.append((factor, parameters))
                settled = False
        if settled:
            break
    return now, word


@lru_cache(maxsize=4)
def _exponents(factors: tuple[Factor, ...]) -> tuple[dict[str, list[Part]], Tensor]:
    """Exponents of all tensors and what holds the unheld: the same for all models of a group, and only read."""
    parts = exponents_of(factors)
    return parts, unheld(parts, sum(factor.identity().numel() for factor in factors))


class _Balance:
    """Newton's method from one point.

    Tensors that scales alone move, and those that simple translations shift besides, have a closed form; *other* ones
    are differentiated. *Near* ones are what translations and linear factors write or read.
    """

    def __init__(self, group: SymmetryGroup, factors: list[Factor], tensors: Tensors) -> None:
        self.group, self.factors, self.tensors = group, factors, dict(tensors)
        self.shapes = [factor.identity().shape for factor in factors]
        self.sizes = [shape.numel() for shape in self.shapes]
        unknowns = sum(self.sizes)
        self.parts, self.pull = _exponents(tuple(factors))
        self.written = {name for factor in factors for name in _writes(factor)} & set(tensors)
        read = self.written.union(*(f.reads for f in factors if isinstance(f, TranslationFactor)))
        self.near = {name: tensor for name, tensor in tensors.items() if name in read}
        diagonal = [factor for factor in factors if isinstance(factor, DiagonalFactor)]
        offsets = {name: offset for factor in diagonal for name, offset in factor.offsets.items()}
        names = [name for name in group.program.tensors if name in tensors]
        alone = {name: self.parts[name] for name in names if name in self.parts and name not in self.written}
        self.scaled = ScaledNorm(alone, tensors, unknowns)
        self.fixed = sum(_square(tensors[name]) for name in set(names) - set(alone) - self.written)
        starts = np.cumsum([0, *self.sizes]).tolist()
        shifts = [(f, start) for f, start in zip(factors, starts, strict=False) if isinstance(f, TranslationFactor)]
        simple = len(diagonal) + len(shifts) == len(factors) and not any(factor.additive for factor in diagonal)
        shifted = ShiftedNorm(self.parts, shifts, self.near, offsets, unknowns) if simple and self.written else None
        self.shifted = shifted if shifted is not None and shifted.closed else None
        self.other = [name for name in names if name in self.written] if self.shifted is None else []
        self.closed: list[ScaledNorm | ShiftedNorm] = [self.scaled]
        if self.shifted is not None:
            self.closed.append(self.shifted)
        shifting = [
            torch.full((size,), isinstance(f, TranslationFactor)) for f, size in zip(factors, self.sizes, strict=True)
        ]
        self.bounded = (~torch.cat(shifting)).double()  # the norm is quadratic along translations
        self.total = torch.zeros(unknowns, dtype=torch.float64)
        self.word: list[tuple[Factor, Tensor]] = []

    def run(self) -> tuple[dict[str, Tensor], GroupElement, list[str]]:
        """Steps until the norm is flat."""
        before, steepness = float("inf"), 0.0
        for _ in range(NEWTON_STEPS):
            zero = torch.zeros_like(self.total).requires_grad_()
            level = self.norm_of_others(zero)
            (slope,) = torch.autograd.grad(level, zero, create_graph=True) if self.other else (torch.zeros_like(zero),)
            gradient = slope.detach() - 2 * self.pull + sum(torch.from_numpy(part.slope()) for part in self.closed)
            height = float(level.detach()) + sum(part.level for part in self.closed) + self.fixed
            steepness = float(gradient.abs().max()) / max(height, 1e-300)
            if steepness <= PRECISION or (steepness < NEARLY and steepness > before / 2):
                break
            before = steepness
            if self.shifted is not None:
                self.shifted.far = steepness > FAR
            step = self.newton(slope, zero, gradient, steepness)
            step = step * min(1.0, LONGEST_STEP / max(float((step * self.bounded).abs().max()), 1e-300))
            while float(step.abs().max()) > 1e-3 and not self.norm(step) < height:
                step = step / 2
            self.follow(step)
            self.move(step)
        return self.moved(), GroupElement(self.group, tuple(self.word)), self.reasons(steepness)

    def follow(self, step: Tensor) -> None:
        """Add a step to the word: where there is a closed form, translations T and scales S stay one each.

        After S the next T' S' is (S⁻¹ T' S) first, then all scales: translations with a closed form commute.
        """
        element = self.element(step)
        if self.shifted is None or not self.word:
            self.word += element
            return
        scales = [(f, f.inverse(p)) for f, p in self.word if scales_of(f)]
        merged = []
        for (factor, before), (_, parameters) in zip(self.word, element, strict=True):
            for scale, other in scales if isinstance(factor, TranslationFactor) else ():
                found = factor.conjugate(parameters, scale, other)
                if found is None:
                    self.word += element
                    return
                parameters = found
            merged.append((factor, factor.compose(parameters, before)))
        self.word = merged

    def element(self, direction: Tensor) -> list[tuple[Factor, Tensor]]:
        """The element in a direction from where we stand; the closed form has translations before scales."""
        parts = zip(self.factors, direction.split(self.sizes), self.shapes, strict=True)
        found = [(factor, _exponential(factor, part.reshape(shape))) for factor, part, shape in parts]
        return sorted(found, key=lambda entry: bool(scales_of(entry[0]))) if self.shifted is not None else found

    def changed(self, direction: Tensor) -> dict[str, Tensor]:
        """What is near, once moved."""
        changed = dict(self.near)
        for factor, parameters in self.element(direction):
            changed.update(factor.apply(parameters, changed))
        return changed

    def norm_of_others(self, direction: Tensor) -> Tensor:
        """The squared norm of what has no closed form."""
        changed = self.changed(direction) if self.other else {}
        squares = (changed[name] * changed[name].conj() for name in self.other)
        return sum((square.real.sum() for square in squares), torch.zeros((), dtype=torch.float64))

    def norm(self, step: Tensor) -> float:
        """The squared norm, less the character that holds what is unheld."""
        closed = sum(part.value(step.numpy()) for part in self.closed)
        return float(self.norm_of_others(step)) + closed + self.fixed - 2 * float(self.pull.dot(step))

    def move(self, step: Tensor) -> None:
        """Stand somewhere else."""
        self.near = {name: tensor.detach() for name, tensor in self.changed(step).items()}
        self.total += step
        self.scaled.move(step.numpy())
        if self.shifted is not None:
            self.shifted.stand(self.near)

    def moved(self) -> dict[str, Tensor]:
        """The tensors where we stand: scales commute, so that all steps of them are taken at once."""
        held = {name: tensor for name, tensor in self.tensors.items() if name not in self.written}
        for factor, part in zip(self.factors, self.total.split(self.sizes), strict=True):
            if scales_of(factor):
                held.update(factor.apply(part, held))
        return {name: self.near[name] if name in self.written else held[name] for name in self.tensors}

    def reasons(self, steepness: float) -> list[str]:
        """Why there is no least norm, if there is none."""
        left = [
            f"{factor.name}: a unit without weights on one side has no least norm"
            for factor, part in zip(self.factors, self.total.split(self.sizes), strict=True)
            if part.abs().max() > UNBOUNDED and not isinstance(factor, TranslationFactor)
        ]
        if steepness > NEARLY and not left:
            left.append(f"the least norm was not reached (relative slope {steepness:.0e})")
        return left

    # --- the Newton step --------------------------------------------------------------------------------------------

    def newton(self, slope: Tensor, at: Tensor, gradient: Tensor, steepness: float) -> Tensor:
        """By the dense Hessian where it is small, whose flat directions are left alone, else iteratively."""
        if len(gradient) > DENSE:
            goal = max(EXACT, min(steepness, 0.1) ** 2)
            step, positive = _solve(
                lambda d: self.curvature(slope, at, d), self.preconditioner(slope, at), -gradient, goal
            )
            if self.shifted is None or self.shifted.far or positive:
                return step
            self.shifted.far = True
            return _solve(lambda d: self.curvature(slope, at, d), self.preconditioner(slope, at), -gradient, goal)[0]
        every = torch.eye(len(gradient), dtype=gradient.dtype)
        hessian = sum(
            (torch.from_numpy(part.curvature(every.numpy())) for part in self.closed), torch.zeros_like(every)
        )
        if self.other:
            hessian += torch.autograd.grad(slope, at, every, retain_graph=True, is_grads_batched=True)[0]
        values, vectors = torch.linalg.eigh((hessian + hessian.mT) / 2)
        if self.shifted is not None and not self.shifted.far and values[0] < -INDEFINITE * values[-1]:
            self.shifted.far = True
            return self.newton(slope, at, gradient, steepness)
        curved = values > FLAT * values[-1]
        step = vectors[:, curved] @ ((vectors[:, curved].mT @ -gradient) / values[curved])
        return step if bool(step.any()) else -gradient

    def curvature(self, slope: Tensor, at: Tensor, direction: Tensor) -> Tensor:
        """The Hessian times a vector."""
        image = sum((torch.from_numpy(part.curvature(direction.numpy())) for part in self.closed), torch.zeros_like(at))
        return image + torch.autograd.grad(slope, at, direction, retain_graph=True)[0] if self.other else image

    def preconditioner(self, slope: Tensor, at: Tensor) -> Callable[[Tensor], Tensor]:
        """Solves with what the unknowns of one unit do to each other; of what has no closed form with the diagonal."""
        nearly: Any = sum(part.matrix() for part in self.closed)
        diagonal = np.zeros(len(self.total))
        if self.other:
            known = {name: self.parts[name] for name in self.other if name in self.parts}
            nearly = nearly + ScaledNorm(known, self.near, len(self.total)).matrix()
            own = zip(self.factors, self.sizes, strict=True)
            asked = torch.cat([torch.full((size,), not scales_of(factor)) for factor, size in own])
            signs = 1.0 - 2.0 * torch.randint(0, 2, asked.shape, generator=torch.Generator().manual_seed(0))
            probe = torch.where(asked, signs, 0.0).double()  # exact where the unknowns do not touch each other
            image = torch.autograd.grad(slope, at, probe, retain_graph=True)[0]
            diagonal = torch.where(asked, image.abs(), 0.0).numpy()
        ridge = RIDGE * float((nearly.diagonal() + diagonal).max())
        whole = csc_array(nearly + diags_array(diagonal + ridge))
        solve = splu(whole, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}).solve
        wide, middle = self.scaled.coupling()
        if not len(middle):
            return lambda residual: torch.from_numpy(solve(residual.numpy()))
        solved = solve(wide)
        inner = np.linalg.inv(np.linalg.inv(middle) + wide.T @ solved)  # Woodbury

        def lowered(residual: Tensor) -> Tensor:
            first = solve(residual.numpy())
            return torch.from_numpy(first - solved @ (inner @ (wide.T @ first)))

        return lowered


def _solve(
    operator: Callable[[Tensor], Tensor], precondition: Callable[[Tensor], Tensor], right: Tensor, goal: float
) -> tuple[Tensor, bool]:
    """Conjugate gradients for a symmetric, semi-definite operator whose range holds the right-hand side.

    Returns:
        the solution, as far as it came, and whether operator and preconditioner were positive all the way.
    """
    solution, residual = torch.zeros_like(right), right.clone()
    lowered = precondition(residual)
    direction, square = lowered.clone(), residual.dot(lowered)
    goal = goal**2 * float(square)
    positive = goal >= 0
    for _ in range(4 * len(right)):
        if not positive or square <= goal:
            break
        image = operator(direction)
        curvature = direction.dot(image)
        positive = bool(curvature > 0)
        if positive:
            solution = solution + (square / curvature) * direction
            residual = residual - (square / curvature) * image
            lowered = precondition(residual)
            before, square = square, residual.dot(lowered)
            direction = lowered + (square / before) * direction
            positive = bool(square >= 0)
    return solution if bool(solution.any()) else right, positive


def _is_compact(factor: Factor) -> bool:
    if isinstance(factor, DiagonalFactor):
        return factor.question != "positive"
    if isinstance(factor, LinearFactor):
        return factor.orthogonal
    return not isinstance(factor, TranslationFactor)


def _writes(factor: Factor) -> frozenset[str]:
    """The tensors that a factor does more to than multiply their entries by positive numbers."""
    if isinstance(factor, TranslationFactor):
        return factor.writes
    if isinstance(factor, LinearFactor):
        return frozenset(m.tensor for m in factor.mixed)
    return factor.adds if isinstance(factor, DiagonalFactor) else frozenset()


def _square(tensor: Tensor) -> float:
    return float(tensor.abs().square().sum())


def _exponential(factor: Factor, direction: Tensor) -> Tensor:
    """The element in a direction; of linear factors only the symmetric part moves the norm."""
    if isinstance(factor, LinearFactor):
        symmetric = (direction + direction.mT) / 2
        if direction.requires_grad:  # two derivatives at zero are wanted, and matrix_exp's are slow
            return factor.identity() + symmetric + symmetric @ symmetric / 2
        return torch.linalg.matrix_exp(symmetric)
    return direction
