"""Linear mode connectivity: the loss on the straight line between two models, before and after alignment.

The barrier is max_t L((1 − t) θ_1 + t θ_2) − (1 − t) L(θ_1) − t L(θ_2). "Linear Mode Connectivity and the Lottery
Ticket Hypothesis" (Frankle, Dziugaite, Roy and Carbin, 2020); that alignment takes it away is the conjecture of "The
Role of Permutation Invariance in Linear Mode Connectivity of Neural Networks" (Entezari, Sedghi, Saukh and Neyshabur,
2022).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from analysis.analysis import analysis
from analysis.symmetry.activation_matching import batches_of, match_activations
from analysis.symmetry.merging import Evaluation, barrier, evaluation_of, interpolate
from analysis.symmetry.repair import repair
from analysis.symmetry.sinkhorn_matching import match_by_sinkhorn
from analysis.symmetry.weight_matching import Alignment, PairOptions, match_weights, pair, state
from analysis.theme import CATEGORICAL, figure
from graphs.group import SymmetryGroup
from graphs.symmetry import symmetry
from modelzoo.store import Population

Method = Literal["weights", "activations", "sinkhorn"]


@dataclass(frozen=True)
class Connectivity:
    """Losses along straight lines between two models.

    Args:
        times: `[point]` from 0 to 1.
        paths: names of the lines.
        losses: `[path, point]`.
        scores: `[path, point]` the task's metric.
        metric: its name.
    """

    times: NDArray[np.float64]
    paths: tuple[str, ...]
    losses: NDArray[np.float64]
    scores: NDArray[np.float64]
    metric: str

    @property
    def barriers(self) -> dict[str, float]:
        """Height of the loss above the straight line between the ends, by path."""
        return {path: barrier(losses, self.times) for path, losses in zip(self.paths, self.losses, strict=True)}

    @property
    def sentence(self) -> str:
        """The barriers, in one sentence."""
        return "loss barrier: " + ", ".join(f"{height:.4g} {path}" for path, height in self.barriers.items())

    def to_frame(self) -> pd.DataFrame:
        """One row a path and point."""
        return pd.DataFrame([
            {"path": path, "t": float(t), "loss": float(loss), self.metric: float(score)}
            for path, losses, scores in zip(self.paths, self.losses, self.scores, strict=True)
            for t, loss, score in zip(self.times, losses, scores, strict=True)
        ])  # fmt: skip

    def plot(self) -> go.Figure:
        """Loss over t, one line a path."""
        chart = figure()
        for path, losses, scores, colour in zip(self.paths, self.losses, self.scores, (CATEGORICAL[1], CATEGORICAL[0], CATEGORICAL[2]), strict=False):  # fmt: skip
            chart.add_scatter(
                x=self.times, y=losses, mode="lines+markers", name=path, line={"color": colour}, customdata=scores,
                hovertemplate=f"t = %{{x:.2f}}: loss %{{y:.4g}}, {self.metric} %{{customdata:.4g}}<extra>{path}</extra>",
            )  # fmt: skip
        return chart.update_layout(xaxis_title="t", yaxis_title="loss", yaxis_rangemode="tozero")


def connectivity(
    evaluation: Evaluation, group: SymmetryGroup, first: Mapping[str, Tensor], second: Mapping[str, Tensor],
    aligned: Mapping[str, Tensor], batches: Sequence[Sequence[Tensor]] = (), points: int = 11,
) -> Connectivity:  # fmt: skip
    """Losses on the lines from one model to another, to the other aligned, and the same repaired.

    Args:
        evaluation: what a model's loss is.
        group: the models' symmetry group.
        first, second: parameters and buffers by name.
        aligned: the second, aligned with the first.
        batches: inputs of the traced shapes for REPAIR; none leaves it out.
        points: on every line.
    """
    times = np.linspace(0, 1, points)
    lines = {
        "as trained": [interpolate(first, second, t) for t in times],
        "aligned": [interpolate(first, aligned, t) for t in times],
    }
    if batches:
        ends = [0, points - 1]  # the parents themselves need no repair
        lines["aligned, repaired"] = [
            merged
            if k in ends
            else repair(evaluation.module, group.program, (first, aligned), merged, batches, (1 - t, t)).tensors
            for k, (t, merged) in enumerate(zip(times, lines["aligned"], strict=True))
        ]
    values = np.array([[evaluation(tensors) for tensors in line] for line in lines.values()])  # [path, point, 2]
    return Connectivity(times, tuple(lines), values[..., 0], values[..., 1], evaluation.task.metric)


class ModeConnectivityOptions(PairOptions):
    """Two models by id, how they are aligned, and on which data they are compared.

    `batches` of training inputs are used for activations and for REPAIR; 0 leaves REPAIR out.
    """

    method: Method = "weights"
    split: Literal["train", "test"] = "test"
    points: int = Field(11, ge=3)
    batches: int = Field(100, ge=0)


@analysis("mode_connectivity", of="population", options=ModeConnectivityOptions, tiny={"points": 3, "batches": 20}, example="small_cnn")  # fmt: skip
def mode_connectivity(population: Population, options: ModeConnectivityOptions) -> Connectivity:
    """Loss on the straight line between two models: as trained, aligned, and repaired."""
    first, second = (state(population, row) for row in pair(population, options))
    evaluation = evaluation_of(population, options.split)
    group = symmetry(population.template(), population.example_inputs(), verify=False)
    batches = batches_of(population, group, options.batches) if options.batches else []
    aligned = align(group, first, second, options.method, batches, options.seed)
    return connectivity(evaluation, group, first, second, aligned.tensors, batches, options.points)


def align(
    group: SymmetryGroup, reference: Mapping[str, Tensor], tensors: Mapping[str, Tensor], method: Method = "weights",
    batches: Sequence[Sequence[Tensor]] = (), seed: int = 0,
) -> Alignment:  # fmt: skip
    """Align by the named method; `batches` are needed for activations."""
    if method == "activations":
        return match_activations(group, reference, tensors, batches, seed)
    if method == "sinkhorn":
        return match_by_sinkhorn(group, reference, tensors, seed=seed)
    return match_weights(group, reference, tensors, seed)
