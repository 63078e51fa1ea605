"""How the tangent kernel of the models of a population changes while they are trained.

Lazy training leaves the kernel where it was; feature learning turns it, mostly towards the targets: its alignment with
them (centred, see `analysis.ntk.regression.alignment`) rises.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import one_hot

from analysis.analysis import Options, analysis
from analysis.ntk.empirical import empirical_kernel
from analysis.ntk.regression import alignment
from analysis.theme import CATEGORICAL, styled
from modelzoo.errors import UserError
from modelzoo.store import Population

MOST_OUTPUTS = 32


@dataclass(frozen=True)
class KernelEvolution:
    """Kernels along the checkpoints of a population.

    Args:
        rows: one row a model and checkpoint: `model`, `step`, `alignment` with the targets, `distance` from the first
            checkpoint (1 − cosine), `top share` (largest eigenvalue over the trace), `effective rank`, `eigenvalue`.
        spectra: mean eigenvalues over models, descending, relative to the trace, `[checkpoint, rank]`.
        steps: of the checkpoints.
    """

    rows: pd.DataFrame
    spectra: np.ndarray
    steps: tuple[int, ...]

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        means = self.rows.groupby("step")[["alignment", "distance", "effective rank"]].mean()
        first, last = means.iloc[0], means.iloc[-1]
        return (
            f"from step {means.index[0]} to {means.index[-1]} the kernel turns by {last['distance']:.3f} (1 − cosine), its "
            f"alignment with the targets goes from {first['alignment']:.3f} to {last['alignment']:.3f}, its effective rank "
            f"from {first['effective rank']:.2f} to {last['effective rank']:.2f}."
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a model and checkpoint."""
        return self.rows

    def plot(self) -> go.Figure:
        """Alignment over training, and the spectrum at every checkpoint."""
        drawing = make_subplots(1, 2, subplot_titles=("alignment with the targets", "mean spectrum, trace 1"), horizontal_spacing=0.12)  # fmt: skip
        for _, part in self.rows.groupby("model"):
            drawing.add_trace(go.Scatter(x=part["step"], y=part["alignment"], mode="lines+markers", line={"color": CATEGORICAL[0], "width": 1}, opacity=0.6, showlegend=False), row=1, col=1)  # fmt: skip
        for place, (step, values) in enumerate(zip(self.steps, self.spectra, strict=True)):
            shown = np.where(values > 1e-12, values, np.nan)
            drawing.add_trace(go.Scatter(x=np.arange(1, len(values) + 1), y=shown, name=f"step {step}", line={"color": CATEGORICAL[place % len(CATEGORICAL)]}), row=1, col=2)  # fmt: skip
        drawing.update_xaxes(title_text="step", row=1, col=1)
        drawing.update_xaxes(title_text="rank", row=1, col=2)
        drawing.update_yaxes(type="log", tickformat="~g", row=1, col=2)
        return styled(drawing, height=360).update_layout(legend_y=1.12, margin_t=80)


def data_of(population: Population, samples: int, split: str = "test") -> tuple[tuple[Tensor, ...], Tensor]:
    """The first samples of a population's task and their targets as rows of numbers (classes one-hot, centred).

    Raises:
        UserError: samples are coupled (a graph), or every model has targets of its own.
    """
    task = population.task
    if task.inputs.kind == "graph" or task.instances:
        raise UserError(f"task {task.name!r} of population {population.name!r} has no separate samples with common targets; take another population.")  # fmt: skip
    data = getattr(task.data(), split)
    inputs, targets = tuple(x[:samples] for x in data.inputs), data.targets[:samples]
    rows = one_hot(targets, task.targets.classes).double() if task.targets.classes else targets.double()
    rows = rows.flatten(1)
    return inputs, rows - rows.mean(0)


def trace_kernel(module: nn.Module, inputs: tuple[Tensor, ...], others: tuple[Tensor, ...] | None = None) -> Tensor:
    """The mean of Θ_oo over at most 32 evenly spread outputs, in float64."""
    with torch.no_grad():
        count = module(*(x[:1] for x in inputs))[0].numel()
    chosen = None if count <= MOST_OUTPUTS else torch.linspace(0, count - 1, MOST_OUTPUTS).round().long().tolist()
    return empirical_kernel(module, inputs, others, form="trace", reduction="mean", outputs=chosen).values.double()


def kernel_history(population: Population, models: int, samples: int) -> KernelEvolution:
    """Kernels of the first models of a population at all their checkpoints.

    Args:
        population: the population.
        models: how many.
        samples: of its task's test data.
    """
    inputs, targets = data_of(population, samples)
    steps = tuple(population.info.checkpoint_steps)
    rows, spectra = [], np.zeros((len(steps), len(targets)))
    count = min(models, len(population))
    for row in range(count):
        first: Tensor | None = None
        for place, step in enumerate(steps):
            kernel = trace_kernel(population.module(row, place), inputs)
            values = torch.linalg.eigvalsh(kernel).flip(0).clamp_min(0)
            first = kernel if first is None else first
            cosine = float((kernel * first).sum() / (kernel.norm() * first.norm()))
            spectra[place] += (values / values.sum()).numpy() / count
            rows.append({
                "model": int(population.table.index[row]), "step": step, "alignment": alignment(kernel, targets),
                "distance": max(0.0, 1 - cosine), "top share": float(values[0] / values.sum()),
                "effective rank": float(values.sum() ** 2 / values.square().sum()), "eigenvalue": float(values[0]),
            })  # fmt: skip
    return KernelEvolution(pd.DataFrame(rows), spectra, steps)


class KernelEvolutionOptions(Options):
    """How many models and samples."""

    models: int = Field(8, ge=1)
    samples: int = Field(64, ge=2)


@analysis("kernel_evolution", of="population", options=KernelEvolutionOptions, tiny={"models": 2, "samples": 12})
def kernel_evolution(population: Population, options: KernelEvolutionOptions) -> KernelEvolution:
    """The tangent kernels of a population along its checkpoints: turn, alignment with the targets, spectrum."""
    return kernel_history(population, options.models, options.samples)
