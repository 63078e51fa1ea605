"""Weight matching: the point on one model's orbit that is nearest to another model.

"Git Re-Basin: Merging Models modulo Permutation Symmetries" (Ainsworth, Hayase and Srinivasa, 2023) for any inferred
group: both models are first balanced (least norm along scales, GL and translations), then brought together by
coordinate descent over what is left, which is compact; the result is carried back to the reference as it was given.
Merging weights commutes with that last step, because every element acts affinely on the weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from pydantic import Field
from torch import Tensor

from analysis.analysis import Options, analysis
from analysis.symmetry.descent import Descent, squared_distance
from analysis.symmetry.least_squares import least_squares
from analysis.symmetry.plan import Plan
from analysis.theme import CATEGORICAL, figure
from graphs.canonical import CanonicalForm, balanced, canonicalize, ordered
from graphs.elements import GroupElement
from graphs.factors import Factor
from graphs.group import SymmetryGroup
from graphs.interpreter import widen
from graphs.scalings.linear import LinearFactor
from graphs.scalings.periods import PeriodFactor
from graphs.scalings.translations import TranslationFactor
from graphs.symmetry import symmetry
from modelzoo.errors import UserError
from modelzoo.store import Population

SWEEPS = 100
MET = 1e-7  # of the norm: models this near share an orbit, and no other start brings them nearer
ROUNDS = 50  # of least squares at most
NEAR = 1e-3  # of a squared norm: by how much those of (nearly) equal models may differ

Word = tuple[tuple[Factor, Tensor], ...]


@dataclass(frozen=True)
class Alignment:
    """One model brought as close to another as a group allows.

    Args:
        tensors: the aligned model: the same function as before, parameters and buffers by name, in their own types.
        path: takes the model to the aligned one.
        before: `[tensor]` distances to the reference by parameter, both models balanced.
        after: the same once aligned.
        norms: `[tensor]` norms of the balanced reference.
        names: of the parameters.
        sweeps: of the coordinate descent that led there.
        start: where that descent started.
    """

    tensors: dict[str, Tensor] = field(repr=False)
    path: GroupElement = field(repr=False)
    before: np.ndarray
    after: np.ndarray
    norms: np.ndarray
    names: tuple[str, ...]
    sweeps: int
    start: str

    @cached_property
    def element(self) -> GroupElement:
        """The same as `path`, with its word in the order of the group's factors."""
        return self.path.in_order()

    @property
    def distance(self) -> float:
        """The distance modulo symmetry that was reached: ‖A − g·B‖ between balanced models."""
        return float(np.linalg.norm(self.after))

    @property
    def sentence(self) -> str:
        """What was reached, in one sentence."""
        before, norm = float(np.linalg.norm(self.before)), float(np.linalg.norm(self.norms))
        return f"distance {before:.4g} before, {self.distance:.4g} after ({self.distance / norm:.1%} of the reference's norm), {self.sweeps} sweeps from {self.start}"

    def to_frame(self) -> pd.DataFrame:
        """One row a parameter."""
        return pd.DataFrame({"tensor": self.names, "norm": self.norms, "before": self.before, "after": self.after})

    def plot(self) -> go.Figure:
        """Distances relative to the reference's norm, before and after."""
        chart = figure(height=90 + 26 * len(self.names))
        for name, values, colour in (("before", self.before, CATEGORICAL[1]), ("after", self.after, CATEGORICAL[0])):
            chart.add_bar(y=self.names, x=values / np.maximum(self.norms, 1e-300), name=name, orientation="h", marker_color=colour)  # fmt: skip
        return chart.update_layout(xaxis_title="distance / norm of the reference", yaxis_autorange="reversed")


class Matching:
    """Aligns models of one group to one reference; what only depends on the reference is computed once.

    Args:
        group: their symmetry group.
        reference: parameters and state buffers of the model that stays, by name.
        plan: of the group, if one is there already.
        canonical_start: also start from the orders that keys of neurons and canonical forms give, which are exact for
            models of one orbit; tried where the norms allow that they share one, and the given order did not bring
            them together.
    """

    def __init__(
        self, group: SymmetryGroup, reference: Mapping[str, Tensor], plan: Plan | None = None,
        canonical_start: bool = True,
    ) -> None:  # fmt: skip
        self.group, self.plan = group, plan or Plan(group)
        self.unbalanced = widened(reference)
        self.given = settled(group, self.unbalanced)
        self.canonical_start = canonical_start

    @cached_property
    def form(self) -> CanonicalForm:
        """The canonical form of the reference."""
        return canonicalize(self.group, self.given.tensors)

    @cached_property
    def order(self) -> CanonicalForm:
        """The reference as given, its neurons sorted."""
        return ordered(self.group, self.unbalanced)

    def align(
        self, tensors: Mapping[str, Tensor], seed: int = 0, sweeps: int = SWEEPS,
        starts: Sequence[tuple[str, GroupElement]] = (), given_start: bool = True, held: Sequence[str] = (),
    ) -> Alignment:  # fmt: skip
        """The nearest point found on the orbit of a model.

        Args:
            tensors: parameters and state buffers by name, `[*shape]`.
            seed: of the order in which factors take their turns.
            sweeps: at most, from every start.
            starts: further named elements of the model's balanced form to start from.
            given_start: whether to start from the order as it is, too.
            held: names of factors that stay as the start has them.
        """
        unbalanced = widened(tensors)
        own = settled(self.group, unbalanced)
        reference = {name: self.given.tensors[name] for name in self.plan.parameters}
        size = squared_distance(reference, dict.fromkeys(reference, torch.zeros(())))
        found: list[tuple[float, Descent, int, str]] = []
        given: list[tuple[str, Callable[[], Word]]] = [("the given order", tuple)] if given_start else []
        others = [(name, lambda element=element: element.word) for name, element in starts]
        alike = self.canonical_start and self._alike(unbalanced, self.unbalanced)
        keys = [("keys of neurons", lambda: self._ordered(own, unbalanced))] if alike else []
        canonical = [("canonical forms", lambda: self._canonical(own))] if self._may_share_an_orbit(own) else []
        for name, word in (*keys, *given, *others, *canonical):
            if found and min(found, key=_by_distance)[0] <= MET**2 * size:
                break
            descent = Descent(self.plan, self.given.tensors, own.tensors)
            for factor, parameters in word():
                descent.apply(factor, parameters)
            done = descent.run(sweeps, np.random.default_rng(seed), held)
            found.append((descent.squared_distance(), descent, done, name))
        _, best, done, start = min(found, key=_by_distance)
        back = self.given.path.backwards()
        moved = back.apply(best.tensors)
        last = self._last(moved) if best.squared_distance() <= MET**2 * size else ()
        moved = GroupElement(self.group, last).apply(moved)
        return Alignment(
            {name: moved[name].to(tensor.dtype) for name, tensor in tensors.items()},
            GroupElement(self.group, (*own.path.word, *best.word, *back.word, *last)),
            _distances(reference, own.tensors), _distances(reference, best.tensors),
            np.array([float(tensor.norm()) for tensor in reference.values()]), self.plan.parameters, done, start,
        )  # fmt: skip

    def settled(self, tensors: Mapping[str, Tensor]) -> CanonicalForm:
        """The form of a model in which it is compared."""
        return settled(self.group, widened(tensors))

    def _may_share_an_orbit(self, own: CanonicalForm) -> bool:
        """Whether a start from canonical forms can be exact: on one orbit all tensors of settled models have one norm."""
        if not self.canonical_start or own.left or self.given.left:
            return self.canonical_start
        return self._alike(own.tensors, self.given.tensors)

    def _alike(self, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
        """Whether all tensors have (nearly) equal norms, as they have if a compact element leads from one model to the other."""
        mine, others = (
            np.array([sum(float(tensors[n].abs().square().sum()) for n in names) for names in self.plan.together])
            for tensors in (ours, theirs)
        )
        return bool((abs(mine - others) <= NEAR * others + NEAR**2 * others.sum()).all())

    def _last(self, moved: Mapping[str, Tensor]) -> Word:
        """Linear factors by least squares and translations in turns, if so a model of one orbit becomes the reference.

        Balanced forms do not tell in what is multiplied by nothing, which shrinks to zero in them.
        """
        reference = {name: self.unbalanced[name] for name in self.plan.parameters}
        met = MET**2 * squared_distance(reference, dict.fromkeys(reference, torch.zeros(())))
        if squared_distance(reference, moved) <= met:
            return ()
        now, word = dict(moved), list[tuple[Factor, Tensor]]()
        for _ in range(ROUNDS):
            before = squared_distance(reference, now)
            for factor in self.group.factors:
                choices: list[Tensor] = []
                if isinstance(factor, LinearFactor) and not factor.orthogonal:
                    choices = least_squares(factor, reference, now)
                elif isinstance(factor, TranslationFactor):
                    choices = [factor.centring(now) - factor.centring(self.unbalanced)]
                tried = [(squared_distance(reference, now), now, word)]
                for parameters in choices:
                    found = {**now, **factor.apply(parameters, now)}
                    tried.append((squared_distance(reference, found), found, [*word, (factor, parameters)]))
                _, now, word = min(tried, key=lambda entry: entry[0])
            if squared_distance(reference, now) > before / 4:
                break
        return tuple(word) if squared_distance(reference, now) <= met else ()

    def _ordered(self, own: CanonicalForm, unbalanced: Mapping[str, Tensor]) -> Word:
        """The start that lays neuron on neuron of the weights as given, exact for permutations whatever balancing does."""
        form = ordered(self.group, unbalanced)
        back = (*own.path.backwards().word, *form.path.word)
        return (*back, *self.order.path.backwards().word, *self.given.path.word)

    def _canonical(self, own: CanonicalForm) -> Word:
        """The start that lays canonical form on canonical form."""
        form = canonicalize(self.group, own.tensors)
        return (*form.path.word, *self.form.path.backwards().word)


def _by_distance(entry: tuple[float, Descent, int, str]) -> float:
    return entry[0]


def _distances(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> np.ndarray:
    return np.array([squared_distance({name: tensor}, right) ** 0.5 for name, tensor in left.items()])


def settled(group: SymmetryGroup, tensors: Mapping[str, Tensor]) -> CanonicalForm:
    """The balanced form, with the biases of sines within half a period around zero."""
    form = balanced(group, tensors)
    moved, path = form.tensors, form.path
    for factor in group.factors:
        if isinstance(factor, PeriodFactor):
            own = factor.nearest(moved[factor.leaf.tensor])
            moved = {**moved, **factor.apply(own, moved)}
            path = GroupElement(group, (*path.word, (factor, own)))
    return CanonicalForm(moved, path, form.ties, form.left)


def widened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in double precision, cut off from what made them."""
    return {name: widen(tensor.detach()) for name, tensor in tensors.items()}


def match_weights(
    group: SymmetryGroup, reference: Mapping[str, Tensor], tensors: Mapping[str, Tensor], seed: int = 0,
    sweeps: int = SWEEPS, canonical_start: bool = True,
) -> Alignment:  # fmt: skip
    """Align one model with another of the same architecture.

    Args:
        group: the symmetry group, from `graphs.symmetry`.
        reference: parameters and state buffers of the model that stays, by name.
        tensors: those of the model that moves.
        seed: of the order in which factors take their turns.
        sweeps: of the coordinate descent, at most.
        canonical_start: start from canonical forms too where that can be exact; costs a canonical form of both.

    Returns:
        The aligned model. Its function is that of `tensors`; its weights are the nearest to the reference that were
        found (coordinate descent: a local optimum, except that models of one orbit meet exactly).
    """
    return Matching(group, reference, canonical_start=canonical_start).align(tensors, seed, sweeps)


class PairOptions(Options):
    """Two models by id; without them the first two of the population."""

    models: tuple[int, ...] = Field((), max_length=2)
    seed: int = 0


def pair(population: Population, options: PairOptions) -> tuple[int, int]:
    """The rows of the two models an analysis compares; raises `UserError` unless there are two."""
    ids = options.models or tuple(population.table.index[:2].tolist())
    if len(ids) != 2:
        raise UserError(f"two models are compared, got {len(ids)}; add --set models=[ID, ID].", 2)
    first, second = population.positions(list(ids)).tolist()
    return first, second


def state(population: Population, row: int) -> dict[str, Tensor]:
    """Parameters and buffers of one model by name."""
    return {name: value[0] for name, value in population.stacked([row], kind="state").items()}


@analysis("weight_matching", of="population", options=PairOptions)
def weight_matching(population: Population, options: PairOptions) -> Alignment:
    """Align one model with another by their weights, over every factor of the symmetry group."""
    first, second = pair(population, options)
    group = symmetry(population.template(), population.example_inputs(), verify=False)
    return match_weights(group, state(population, first), state(population, second), options.seed)
