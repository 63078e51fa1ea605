"""A whole population in one frame: cycle-consistent matching of many models.

"C²M³: Cycle-Consistent Multi-Model Merging" (Crisostomi, Fumero, Baieri, Bernard and Rodolà, 2024): every model p gets
one permutation P_p into a common universe, so that going from p to q by P_qᵀ P_p closes every cycle. The overlap

    Σ_{p<q} ⟨P_p θ_p, P_q θ_q⟩

is climbed over doubly stochastic matrices of all models and layers at once by the Frank–Wolfe method, and rounded. Then
every model is aligned with the mean of the others in turn, which also chooses signs, rotations and the like.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from analysis.analysis import Options, analysis
from analysis.symmetry.descent import Descent, best_step, inner
from analysis.symmetry.merging import average
from analysis.symmetry.occurrences import matrices_of
from analysis.symmetry.plan import Plan
from analysis.symmetry.weight_matching import SWEEPS, settled, state, widened
from analysis.theme import CATEGORICAL, figure
from graphs.elements import GroupElement
from graphs.factors import Factor, PermutationFactor
from graphs.group import SymmetryGroup
from graphs.symmetry import symmetry
from metanets.alignment import assignment
from modelzoo.errors import UserError
from modelzoo.store import Population

ROUNDS = 10  # in which every model is aligned with the mean of the others
GAIN = 1e-9  # of the overlap


@dataclass(frozen=True)
class Universe:
    """Models of one architecture in a common frame.

    Args:
        tensors: the models' weights in the frame, one mapping a model, in their own types.
        elements: take every model there; from model p to model q leads `elements[q].inverse() @ elements[p]`.
        before: `[model, model]` distances between balanced models as they were.
        after: the same in the frame.
        names: of the models.
    """

    tensors: tuple[dict[str, Tensor], ...] = field(repr=False)
    elements: tuple[GroupElement, ...] = field(repr=False)
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    names: tuple[str, ...]

    @property
    def mean(self) -> dict[str, Tensor]:
        """The average of the aligned models."""
        return average(self.tensors)

    @property
    def sentence(self) -> str:
        """How much nearer the models came, in one sentence."""
        rows = np.triu_indices(len(self.names), 1)
        return f"mean distance between {len(self.names)} models: {self.before[rows].mean():.4g} before, {self.after[rows].mean():.4g} in the common frame"  # fmt: skip

    def to_frame(self) -> pd.DataFrame:
        """One row a pair of models."""
        rows, columns = np.triu_indices(len(self.names), 1)
        return pd.DataFrame({
            "model": [self.names[p] for p in rows], "other": [self.names[q] for q in columns],
            "before": self.before[rows, columns], "after": self.after[rows, columns],
        })  # fmt: skip

    def plot(self) -> go.Figure:
        """Distances of all pairs, after against before."""
        frame = self.to_frame()
        chart = figure()
        top = float(frame["before"].max())
        chart.add_scatter(x=[0, top], y=[0, top], mode="lines", line={"color": CATEGORICAL[9], "dash": "dot"}, hoverinfo="skip", showlegend=False)  # fmt: skip
        chart.add_scatter(x=frame["before"], y=frame["after"], mode="markers", text=frame["model"] + " – " + frame["other"], showlegend=False)  # fmt: skip
        return chart.update_layout(xaxis_title="distance before", yaxis_title="distance in the common frame")


def match_population(
    group: SymmetryGroup,
    models: Sequence[Mapping[str, Tensor]],
    names: Sequence[str] = (),
    steps: int = 30,
    seed: int = 0,
) -> Universe:
    """Bring many models into one frame, cycle-consistently.

    The frame is balanced: scales, linear factors and translations stand at their least norm.

    Args:
        group: their symmetry group, from `graphs.symmetry`.
        models: parameters and state buffers by name, two or more.
        names: of the models, their numbers if empty.
        steps: of Frank–Wolfe, at most.
        seed: of the order in which factors take their turns.
    """
    plan = Plan(group)
    forms = [settled(group, widened(model)) for model in models]
    before = _distances([form.tensors for form in forms], plan.parameters)
    words = frank_wolfe(plan, [form.tensors for form in forms], steps)
    moved = []
    for form, word in zip(forms, words, strict=True):
        current = form.tensors
        for factor, parameters in word:
            current = {**current, **factor.apply(parameters, current)}
        moved.append(current)
    generator = np.random.default_rng(seed)
    level = _spread(moved, plan.parameters)
    for _ in range(ROUNDS):
        for k in generator.permutation(len(moved)):
            descent = Descent(plan, average([m for j, m in enumerate(moved) if j != k]), moved[k])
            descent.run(SWEEPS, generator)
            moved[k] = descent.tensors
            words[k] = [*words[k], *descent.word]
        now = _spread(moved, plan.parameters)
        if level - now <= GAIN * level:
            break
        level = now
    elements = []
    for form, word in zip(forms, words, strict=True):
        elements.append(GroupElement(group, (*form.path.word, *word)).in_order())
    typed = tuple(
        {name: tensor.to(model[name].dtype) for name, tensor in found.items()}
        for found, model in zip(moved, models, strict=True)
    )
    return Universe(typed, tuple(elements), before, _distances(moved, plan.parameters), tuple(names) or tuple(map(str, range(len(models)))))  # fmt: skip


def frank_wolfe(plan: Plan, models: Sequence[Mapping[str, Tensor]], steps: int) -> list[list[tuple[Factor, Tensor]]]:
    """Permutations of every model into the universe, as words."""
    factors = [factor for factor in plan.group.factors if isinstance(factor, PermutationFactor)]
    counts = [(plan.blocks[f.name].copies, plan.blocks[f.name].count) for f in factors]
    soft = [[torch.eye(m, dtype=torch.float64).repeat(copies, 1, 1) for copies, m in counts] for _ in models]

    def overlap(tables: list[list[Tensor]]) -> Tensor:
        total: dict[str, Tensor] = {}
        own = torch.zeros((), dtype=torch.float64)
        for model, matrices in zip(models, tables, strict=True):
            moved = {name: model[name] for name in plan.parameters}
            for factor, matrix in zip(factors, matrices, strict=True):
                moved.update(plan.blocks[factor.name].mix(matrix, moved))
            own = own + inner(moved, moved)
            total = {name: total[name] + tensor if total else tensor for name, tensor in moved.items()}
        return (inner(total, total) - own) / 2  # Σ_{p<q}

    for _ in range(steps if factors else 0):
        leaves = [[table.detach().requires_grad_() for table in tables] for tables in soft]
        level = overlap(leaves)
        slopes = iter(torch.autograd.grad(level, [table for tables in leaves for table in tables]))
        corners = [[matrices_of(assignment(next(slopes)).argsort(-1)) for _ in tables] for tables in soft]

        along = partial(_between, soft, corners)
        height = float(level.detach())
        with torch.no_grad():
            step, gain = best_step(partial(_height, overlap, along), height)
        if gain <= GAIN * abs(height):
            break
        soft = along(step)
    return [[(f, assignment(t).argsort(-1)) for f, t in zip(factors, tables, strict=True)] for tables in soft]


def _between(first: list[list[Tensor]], second: list[list[Tensor]], t: float) -> list[list[Tensor]]:
    """Matrices on the way from the first to the second."""
    return [[a + t * (b - a) for a, b in zip(x, y, strict=True)] for x, y in zip(first, second, strict=True)]


def _height(
    overlap: Callable[[list[list[Tensor]]], Tensor], along: Callable[[float], list[list[Tensor]]], t: float
) -> float:
    return float(overlap(along(t)))


def _distances(models: Sequence[Mapping[str, Tensor]], names: Sequence[str]) -> NDArray[np.float64]:
    """All pairs, `[model, model]`."""
    flat = torch.stack([torch.cat([_real(model[name]) for name in names]) for model in models])
    return torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").numpy()


def _spread(models: Sequence[Mapping[str, Tensor]], names: Sequence[str]) -> float:
    return float(np.square(_distances(models, names)).sum())


def _real(tensor: Tensor) -> Tensor:
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).flatten()


class UniverseOptions(Options):
    """Models by id; without them the first `most` of the population."""

    models: tuple[int, ...] = ()
    most: int = Field(16, ge=2)
    seed: int = 0


def several(population: Population, models: Sequence[int], most: int, least: int = 2) -> tuple[list[int], list[str]]:
    """Rows and names of the models an analysis looks at; raises `UserError` when there are too few."""
    ids = list(models) or population.table.index[:most].tolist()
    if len(ids) < least:
        raise UserError(f"{least} or more models are needed, got {len(ids)}; add --set models=[ID, …].", 2)
    return population.positions(ids).tolist(), [str(number) for number in ids]


@analysis("universe", of="population", options=UniverseOptions)
def universe(population: Population, options: UniverseOptions) -> Universe:
    """Bring the models of a population into one frame, cycle-consistently."""
    rows, names = several(population, options.models, options.most)
    group = symmetry(population.template(), population.example_inputs(), verify=False)
    return match_population(group, [state(population, row) for row in rows], names, seed=options.seed)
