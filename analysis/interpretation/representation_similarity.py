"""Similarity of the layers of two models of a population on the same inputs."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from pydantic import Field

from analysis.activations import activations, sites_of, tensors_of
from analysis.analysis import analysis
from analysis.interpretation.similarity import METRICS
from analysis.symmetry.weight_matching import PairOptions, pair
from analysis.theme import SEQUENTIAL, figure
from graphs.program import trace
from modelzoo.store import Population


@dataclass(frozen=True)
class LayerSimilarity:
    """Similarities of all layers of one model with all layers of another.

    Args:
        metric: its name.
        layers: tensors whose results are compared.
        values: `[layer of the first, layer of the second]`.
    """

    metric: str
    layers: tuple[str, ...]
    values: NDArray[np.float64]

    @property
    def matched(self) -> float:
        """Share of the first model's layers whose most similar layer in the second is the same layer."""
        return float((self.values.argmax(1) == np.arange(len(self.layers))).mean())

    @property
    def sentence(self) -> str:
        """How alike the same layers are."""
        return f"{self.metric} of the same layer {np.diag(self.values).mean():.3f} on average; {self.matched:.0%} of layers are most like themselves"

    def to_frame(self) -> pd.DataFrame:
        """One row a pair of layers."""
        return pd.DataFrame([
            {"first": first, "second": second, self.metric: float(self.values[i, j])}
            for i, first in enumerate(self.layers) for j, second in enumerate(self.layers)
        ])  # fmt: skip

    def plot(self) -> go.Figure:
        """The matrix of similarities."""
        chart = figure(height=120 + 34 * len(self.layers))
        chart.add_heatmap(
            z=self.values, x=self.layers, y=self.layers, colorscale=SEQUENTIAL, zmin=0, zmax=1,
            colorbar={"title": self.metric, "thickness": 10, "outlinewidth": 0},
        )  # fmt: skip
        return chart.update_layout(xaxis_title="second", yaxis_title="first", yaxis_autorange="reversed")


class RepresentationSimilarityOptions(PairOptions):
    """Two models by id, the measure, and how many test samples it is taken on."""

    metric: Literal["cka", "rsa", "procrustes", "neighbours"] = "cka"
    samples: int = Field(256, ge=3)


@analysis(
    "representation_similarity",
    of="population",
    options=RepresentationSimilarityOptions,
    tiny={"samples": 50},
    example="mlp",
)
def representation_similarity(population: Population, options: RepresentationSimilarityOptions) -> LayerSimilarity:
    """How alike the layers of two models are: CKA, RSA, Procrustes or common neighbours of their activations."""
    inputs = population.example_inputs(options.samples)
    program = trace(population.template(), inputs)
    sites = sites_of(program)
    first, second = (
        activations(program, tensors_of(population.module(row)), inputs, sites) for row in pair(population, options)
    )
    metric = METRICS[options.metric]
    values = np.array([[metric(first[a], second[b]) for b in sites] for a in sites])
    return LayerSimilarity(options.metric, tuple(sites), values)
