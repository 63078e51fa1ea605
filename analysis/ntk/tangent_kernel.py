"""`metazoo analyze tangent_kernel`: the kernel of a model on its data, its spectrum, and how every layer was computed."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray
from plotly.subplots import make_subplots
from pydantic import Field
from torch import Tensor

from analysis.analysis import Options, analysis
from analysis.ntk.empirical import MAX_MEMORY, EmpiricalKernel, empirical_kernel
from analysis.ntk.products import Form
from analysis.theme import FOCUS, SEQUENTIAL, styled
from graphs.subjects import Subject
from graphs.verify import random_inputs

MOST_OUTPUTS = 32


@dataclass(frozen=True)
class TangentKernel:
    """An empirical kernel with its spectrum.

    Args:
        subject: the model's name.
        kernel: the kernel.
        eigenvalues: of the kernel as a matrix, descending, in float64.
        parameters: number of scalars that count.
        outputs: how many outputs of a sample count.
        of_outputs: how many there are.
    """

    subject: str
    kernel: EmpiricalKernel
    eigenvalues: NDArray[np.float64]
    parameters: int
    outputs: int
    of_outputs: int

    @property
    def effective_rank(self) -> float:
        """(Σ λ)² / Σ λ²."""
        return float(self.eigenvalues.sum() ** 2 / (self.eigenvalues**2).sum())

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        kernel, top = self.kernel, self.eigenvalues[0]
        form = kernel.form if kernel.form in ("full", "diagonal") else f"{kernel.reduction} {kernel.form}"
        some = "" if self.outputs == self.of_outputs else f" ({self.outputs} of {self.of_outputs} outputs)"
        tiles = f", in tiles of {kernel.tile}" if kernel.tile < len(kernel.values) else ""
        slow = f"; samples one by one for what has no layer product ({kernel.one_by_one})" if kernel.one_by_one else ""
        return (
            f"{form} kernel{some} of {len(kernel.values)} samples over {self.parameters:,} parameters{tiles}: largest "
            f"eigenvalue {top:.4g}, {top / self.eigenvalues.sum():.0%} of the trace, effective rank "
            f"{self.effective_rank:.2f} of {len(self.eigenvalues)}{slow}."
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a layer: the method taken and the work of every method that was possible."""
        return pd.DataFrame([
            {
                "parameters": ", ".join(share.layer.parameters), "size": share.layer.size,
                "positions": share.layer.positions, "method": share.method,
                **{f"{name} MFLOP": share.costs.work.get(name, np.nan) / 1e6 for name in ("hadamard", "jacobian", "ghost")},
            }
            for share in self.kernel.shares
        ])  # fmt: skip

    def plot(self) -> go.Figure:
        """The kernel as a heat map beside its eigenvalues."""
        matrix = _matrix(self.kernel).cpu().numpy()
        drawing = make_subplots(1, 2, subplot_titles=(f"{self.kernel.form} kernel", "eigenvalues"), horizontal_spacing=0.16)  # fmt: skip
        drawing.add_trace(
            go.Heatmap(
                z=matrix, colorscale=SEQUENTIAL,
                colorbar={"thickness": 10, "outlinewidth": 0, "x": 0.43},
                hovertemplate="sample %{y}, sample %{x}<br>%{z:.4g}<extra></extra>",
            ), row=1, col=1,
        )  # fmt: skip
        floor = self.eigenvalues[0] * 1e-12
        shown = self.eigenvalues[self.eigenvalues > floor]
        drawing.add_trace(
            go.Scatter(x=np.arange(1, len(shown) + 1), y=shown, mode="lines+markers", line={"color": FOCUS}, marker={"size": 4}, showlegend=False),
            row=1, col=2,
        )  # fmt: skip
        drawing.update_yaxes(type="log", tickformat="~g", row=1, col=2)
        drawing.update_yaxes(autorange="reversed", row=1, col=1)
        return styled(drawing, height=360)


def _matrix(kernel: EmpiricalKernel) -> Tensor:
    """One symmetric matrix of a kernel; of the diagonal form the sum over outputs."""
    return kernel.values.sum(-1) if kernel.form == "diagonal" else kernel.matrix()


class TangentKernelOptions(Options):
    """Samples, form and reduction (see `empirical_kernel`), at most how many outputs, and the cap on memory in bytes."""

    samples: int = Field(32, ge=1)
    form: Form = "trace"
    reduction: Literal["sum", "mean"] = "sum"
    most_outputs: int = Field(MOST_OUTPUTS, ge=1)
    max_memory: int = Field(MAX_MEMORY, gt=0)
    seed: int = 0


@analysis("tangent_kernel", of="module", options=TangentKernelOptions, tiny={"samples": 6})
def tangent_kernel(subject: Subject, options: TangentKernelOptions) -> TangentKernel:
    """The exact empirical tangent kernel of a model, its spectrum, and how every layer was computed."""
    module = subject.module
    inputs = subject.real(options.samples) if subject.real else _drawn(subject, options)
    with torch.no_grad():
        first = module(*subject.inputs)
    count = (first if isinstance(first, Tensor) else first[0])[0].numel()
    chosen = None
    if count > options.most_outputs:
        chosen = torch.linspace(0, count - 1, options.most_outputs).round().long().tolist()
    kernel = empirical_kernel(
        module, inputs, form=options.form, reduction=options.reduction, outputs=chosen, max_memory=options.max_memory
    )
    values = torch.linalg.eigvalsh(_matrix(kernel).double()).flip(0).cpu().numpy()
    size = sum(p.numel() * (2 if p.is_complex() else 1) for p in module.parameters() if p.requires_grad)
    return TangentKernel(subject.name, kernel, values, size, len(chosen) if chosen else count, count)


def _drawn(subject: Subject, options: TangentKernelOptions) -> tuple[Tensor, ...]:
    """Samples like the examples of a subject without data, at least as many as asked for."""
    generator = torch.Generator().manual_seed(options.seed)
    example = subject.inputs[0]
    rounds = -(-options.samples // len(example))
    if len({len(x) for x in subject.inputs}) > 1 or rounds == 1:
        return subject.inputs
    drawn = [random_inputs(subject.inputs, generator, first=number == 0) for number in range(rounds)]
    return tuple(torch.cat(parts)[: options.samples].to(x.dtype) for x, parts in zip(subject.inputs, zip(*drawn, strict=True), strict=True))  # fmt: skip
