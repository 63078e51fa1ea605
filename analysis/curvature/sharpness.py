"""Sharpness of a minimum, as it stands and at its least over the model's scaling symmetries.

A scale of the inferred group multiplies parameter i by e^{s_i} and leaves the function as it is, but divides the curvature's
diagonal by e^{2 s_i}: sharpness as it stands says nothing about the function ("Sharp Minima Can Generalize For Deep
Nets", Dinh, Pascanu, Bengio and Bengio, 2017). The least trace of the GGN over the orbit, min_s Σ_i e^{-2 s_i} GGN_ii, is a
convex problem in the logarithms of the scales and the same for all models of an orbit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from pydantic import Field
from torch import Tensor

from analysis.analysis import ModelOptions, analysis
from analysis.curvature.operators import KINDS, OPERATORS, Kind, Problem, ggn_diagonal, problem
from analysis.curvature.spectrum import Eigenvalues, Trace, hutchinson, lanczos
from analysis.theme import CATEGORICAL, figure
from graphs.group import SymmetryGroup
from graphs.scalings.diagonal import DiagonalFactor
from graphs.symmetry import symmetry
from modelzoo.errors import UserError
from modelzoo.store import Population


@dataclass(frozen=True)
class OrbitMinimum:
    """The least trace over scales.

    Args:
        value: the trace there.
        before: the trace as given.
        scales: logarithms of the scales by factor, `[generators]` each.
        gradient: norm of the gradient in the logarithms, relative to the trace: 0 at the minimum.
    """

    value: float
    before: float
    scales: dict[str, Tensor]
    gradient: float


def least_trace(group: SymmetryGroup, diagonal: Mapping[str, Tensor], steps: int = 200) -> OrbitMinimum:
    """min over the scaling group of the trace of a curvature whose diagonal is known.

    Args:
        group: the model's symmetry group.
        diagonal: by tensor, not negative.
        steps: of L-BFGS at most.

    Raises:
        UserError: an entry is negative, so that there may be no minimum.
    """
    if any(float(part.min()) < -1e-12 * float(part.abs().max()) for part in diagonal.values()):
        raise UserError("the diagonal has negative entries, so that the trace may have no least value on the orbit; take the GGN.")  # fmt: skip
    factors = [f for f in group.factors if isinstance(f, DiagonalFactor) and f.question == "positive"]
    scales = [torch.zeros(f.count, dtype=torch.float64, requires_grad=True) for f in factors]
    before = sum(float(part.sum()) for part in diagonal.values())

    def trace() -> Tensor:
        logs: dict[str, Tensor] = {}
        for factor, scale in zip(factors, scales, strict=True):
            for exponent in factor.exponents:
                if not exponent.additive:
                    logs[exponent.tensor] = logs.get(exponent.tensor, torch.zeros(())) + exponent.of(scale)
        parts = [
            (part.double().clamp_min(0) * torch.exp(-2 * logs[name]) if name in logs else part.double()).sum()
            for name, part in diagonal.items()
        ]
        return torch.stack(parts).sum()

    def flat() -> tuple[Tensor, list[Tensor]]:
        value = trace()
        return value, list(torch.autograd.grad(value.log(), scales))

    if scales and before > 0:
        optimizer = torch.optim.LBFGS(scales, max_iter=steps, tolerance_grad=1e-12, tolerance_change=1e-15, history_size=20, line_search_fn="strong_wolfe")  # fmt: skip

        def closure() -> Tensor:
            value, gradients = flat()
            for scale, gradient in zip(scales, gradients, strict=True):
                scale.grad = gradient
            return value.log()

        optimizer.step(closure)
    value, gradients = flat() if scales and before > 0 else (torch.tensor(before), [])
    norm = float(torch.cat(gradients).norm()) if gradients else 0.0
    named = {factor.name: scale.detach() for factor, scale in zip(factors, scales, strict=True)}
    return OrbitMinimum(float(value.detach()), before, named, norm)


@dataclass(frozen=True)
class Sharpness:
    """Curvature of one model on one data set.

    Args:
        parameters: their number.
        loss: the mean loss.
        tops: largest eigenvalues by kind of curvature.
        bottom: smallest eigenvalue of the Hessian.
        traces: by kind.
        orbit: the least trace of the GGN over the scaling group.
    """

    parameters: int
    loss: float
    tops: dict[Kind, Eigenvalues]
    bottom: Eigenvalues
    traces: dict[Kind, Trace]
    orbit: OrbitMinimum

    @property
    def converged(self) -> bool:
        """Whether every eigenvalue is."""
        return all(bool(found.converged.all()) for found in (*self.tops.values(), self.bottom))

    @property
    def sentence(self) -> str:
        """The top of the spectrum, whether to believe it, and what the orbit leaves."""
        top = self.tops["hessian"]
        state = "converged" if self.converged else "NOT converged: raise --set iterations"
        return (
            f"largest Hessian eigenvalue {float(top.values[0]):.6g} ± {float(top.residuals[0]):.1g} ({state}); trace of the GGN "
            f"{self.orbit.before:.4g}, at least {self.orbit.value:.4g} over scales"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row an eigenvalue, then one a trace."""
        rows: list[dict[str, object]] = [
            {"curvature": kind, "quantity": f"eigenvalue {k + 1}", "value": float(found.values[k]),
             "error": float(found.residuals[k]), "converged": bool(found.converged[k])}
            for kind, found in self.tops.items() for k in range(len(found.values))
        ]  # fmt: skip
        rows.append({
            "curvature": "hessian", "quantity": "smallest eigenvalue", "value": float(self.bottom.values[0]),
            "error": float(self.bottom.residuals[0]), "converged": bool(self.bottom.converged[0]),
        })  # fmt: skip
        rows += [{"curvature": kind, "quantity": "trace", "value": found.value, "error": found.error, "converged": True} for kind, found in self.traces.items()]  # fmt: skip
        rows.append({"curvature": "ggn", "quantity": "least trace over scales", "value": self.orbit.value, "error": self.orbit.gradient, "converged": True})  # fmt: skip
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """The largest eigenvalues by kind, with their residuals."""
        chart = figure()
        for colour, (kind, found) in zip(CATEGORICAL, self.tops.items(), strict=False):
            chart.add_scatter(
                x=np.arange(1, len(found.values) + 1), y=found.values.numpy(), mode="markers", name=kind,
                error_y={"array": found.residuals.numpy()}, marker={"color": colour, "size": 8},
                hovertemplate="λ%{x}: %{y:.5g}<extra></extra>",
            )  # fmt: skip
        return chart.update_layout(xaxis_title="rank", xaxis_dtick=1, yaxis_title="eigenvalue")


def sharpness_of(
    of: Problem, group: SymmetryGroup, count: int = 3, tolerance: float = 1e-6, iterations: int = 200, probes: int = 30,
    seed: int = 0,
) -> Sharpness:  # fmt: skip
    """Curvature of a problem.

    Args:
        of: model, data and loss.
        group: the model's symmetry group.
        count: eigenvalues of each kind.
        tolerance, iterations: of Lanczos.
        probes: of every trace.
        seed: of start and probes.
    """
    operators = {kind: OPERATORS[kind](of) for kind in KINDS}
    tops = {kind: lanczos(o, count, "largest", tolerance, iterations, seed) for kind, o in operators.items()}
    bottom = lanczos(operators["hessian"], 1, "smallest", tolerance, iterations, seed)
    traces = {kind: hutchinson(o, probes, seed) for kind, o in operators.items()}
    orbit = least_trace(group, ggn_diagonal(of))
    return Sharpness(of.size, float(of.value(of.parameters)), tops, bottom, traces, orbit)


class SharpnessOptions(ModelOptions):
    """Which model, on how many training samples, and how precisely."""

    samples: int = Field(256, ge=1)
    count: int = Field(3, ge=1)
    tolerance: float = Field(1e-6, gt=0)
    iterations: int = Field(200, ge=2)
    probes: int = Field(30, ge=2)
    seed: int = Field(0, ge=0)


@analysis("sharpness", of="population", options=SharpnessOptions, tiny={"samples": 20, "count": 1, "iterations": 20, "probes": 3})  # fmt: skip
def sharpness(population: Population, options: SharpnessOptions) -> Sharpness:
    """Largest eigenvalues and traces of Hessian, GGN and Fisher matrix, and the least trace over scaling symmetries."""
    task = population.task
    if task.sampling == "full":
        raise UserError(f"curvature is a mean over samples, task {task.name!r} has one input only; choose another population.")  # fmt: skip
    row = options.row(population)
    split: tuple[Sequence[Tensor], Tensor] = (task.data().train.inputs, task.data().train.targets)
    inputs, targets = tuple(x[: options.samples] for x in split[0]), split[1][: options.samples]
    group = symmetry(population.template(), population.example_inputs(), verify=False)
    return sharpness_of(
        problem(population.module(row), inputs, targets, task.loss), group, options.count, options.tolerance,
        options.iterations, options.probes, options.seed,
    )  # fmt: skip
