"""Distances modulo symmetry between the models of a population, and which of them are the same up to symmetry.

The distance of two orbits is min_g ‖A − g·B‖ over balanced models and the compact part of the group; coordinate
descent gives an upper bound, which is exact for models of one orbit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from analysis.analysis import analysis
from analysis.symmetry.plan import Plan
from analysis.symmetry.universe import UniverseOptions, several
from analysis.symmetry.weight_matching import Matching, state
from analysis.theme import SEQUENTIAL, figure
from graphs.group import SymmetryGroup
from graphs.symmetry import symmetry
from modelzoo.store import Population

SAME = 1e-5  # of the norm: what float32 weights leave of a distance of zero


@dataclass(frozen=True)
class OrbitDistances:
    """Distances between the orbits of models.

    Args:
        names: of the models.
        plain: `[model, model]` distances between the balanced models as they are.
        modulo: `[model, model]` distances modulo symmetry (upper bounds).
        norms: `[model]` norms of the balanced models.
    """

    names: tuple[str, ...]
    plain: NDArray[np.float64]
    modulo: NDArray[np.float64]
    norms: NDArray[np.float64]

    @property
    def duplicates(self) -> tuple[tuple[str, ...], ...]:
        """Sets of models that are one up to symmetry, as far as their precision tells."""
        near = self.modulo <= SAME * np.minimum.outer(self.norms, self.norms)
        group = connected_components(coo_array(near), directed=False)[1]
        sets = [tuple(np.array(self.names)[group == number].tolist()) for number in range(group.max(initial=-1) + 1)]
        return tuple(found for found in sets if len(found) > 1)

    @property
    def sentence(self) -> str:
        """What was found, in one sentence."""
        found = "; ".join(" = ".join(names) for names in self.duplicates)
        return f"same up to symmetry: {found}" if found else "no two of these models are the same up to symmetry"

    def to_frame(self) -> pd.DataFrame:
        """One row a pair."""
        rows, columns = np.triu_indices(len(self.names), 1)
        return pd.DataFrame({
            "model": [self.names[p] for p in rows], "other": [self.names[q] for q in columns],
            "plain": self.plain[rows, columns], "modulo symmetry": self.modulo[rows, columns],
        })  # fmt: skip

    def plot(self) -> go.Figure:
        """Distances modulo symmetry as a heat map."""
        chart = figure(height=420)
        labels = [f"model {name}" for name in self.names]
        chart.add_heatmap(z=self.modulo, x=labels, y=labels, colorscale=SEQUENTIAL, colorbar={"title": "distance"})
        return chart.update_layout(yaxis_autorange="reversed", yaxis_scaleanchor="x")


def distances(
    group: SymmetryGroup, models: Sequence[Mapping[str, Tensor]], names: Sequence[str] = (), seed: int = 0
) -> OrbitDistances:
    """All distances modulo symmetry between some models.

    Args:
        group: their symmetry group, from `graphs.symmetry`.
        models: parameters and state buffers by name.
        names: of the models, their numbers if empty.
        seed: of the order in which factors take their turns.
    """
    plan, count = Plan(group), len(models)
    plain, modulo, norms = np.zeros((count, count)), np.zeros((count, count)), np.zeros(count)
    for p, model in enumerate(models):
        matching = Matching(group, model, plan)
        norms[p] = sum(float(matching.given.tensors[n].abs().square().sum()) for n in plan.parameters) ** 0.5
        for q in range(p + 1, count):
            found = matching.align(models[q], seed)
            plain[p, q] = plain[q, p] = np.linalg.norm(found.before)
            modulo[p, q] = modulo[q, p] = found.distance
    return OrbitDistances(tuple(names) or tuple(map(str, range(count))), plain, modulo, norms)


@analysis("orbit_distances", of="population", options=UniverseOptions, tiny={"most": 3})
def orbit_distances(population: Population, options: UniverseOptions) -> OrbitDistances:
    """Distances modulo symmetry between the models of a population, and which are the same up to symmetry."""
    rows, names = several(population, options.models, options.most)
    group = symmetry(population.template(), population.example_inputs(), verify=False)
    return distances(group, [state(population, row) for row in rows], names, options.seed)
