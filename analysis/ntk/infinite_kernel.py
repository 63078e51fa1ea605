"""`metazoo analyze infinite_kernel`: what the kernels of a module become as its layers grow wide, read off its program."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from pydantic import Field
from torch import Tensor, nn

from analysis.analysis import Options, analysis
from analysis.ntk.duals import DUALS
from analysis.ntk.empirical import empirical_kernel
from analysis.ntk.recursions import Kernels, input_kernels
from analysis.theme import SEQUENTIAL, styled
from graphs.program import Op, Program, trace
from graphs.subjects import Subject
from graphs.verify import place
from modelzoo.errors import UserError


def infinite_kernels(
    module: nn.Module, inputs: Tensor, weight: float | None = None, bias: float | None = None, standard: bool = False
) -> Kernels:
    """The NNGP and tangent kernels of a module's architecture as all widths go to infinity.

    Args:
        module: linear layers, two-dimensional convolutions, average pooling, flattening, sums of branches, and pointwise
            activations with a dual.
        inputs: `[N, features]` or `[N, C, H, W]`.
        weight: C_W of every layer: weights have variance C_W / fan-in; None measures every layer's own.
        bias: C_b, the variance of biases; None measures every layer's own.
        standard: Θ in the standard parametrization, with the module's own fan-ins, instead of the tangent parametrization.

    Raises:
        UserError: an operation has no recursion.
    """
    program = trace(module, (inputs[:2] if len(inputs) > 1 else inputs,))
    (start,) = program.inputs
    found: dict[int, Kernels] = {start: input_kernels(inputs)}
    tensors = {program.tensors[name]: value.detach() for name, value in module.state_dict(keep_vars=True).items() if name in program.tensors}  # fmt: skip
    for op in program.ops:
        if any(value in found for value in op.inputs):
            found[op.output] = _step(op, program, found, tensors, weight, bias, standard)
        elif op.name == "aten.permute":
            tensors[op.output] = tensors[op.inputs[0]]
    return found[program.outputs[0]]


def _step(
    op: Op, program: Program, found: Mapping[int, Kernels], tensors: Mapping[int, Tensor], weight: float | None,
    bias: float | None, standard: bool,
) -> Kernels:  # fmt: skip
    inputs = [found[v] for v in op.inputs if v in found]
    kernels, name = inputs[0], op.name.removeprefix("aten.")
    given = [tensors[v] for v in op.inputs if v in tensors]
    if name in ("addmm", "mm", "convolution") and given:
        matrix = max(given, key=lambda t: t.ndim)
        shift = min(given, key=lambda t: t.ndim) if len(given) > 1 else None
        fan_in = prod(matrix.shape[1:])
        variance = fan_in * float(matrix.square().mean()) if weight is None else weight
        offset = 0.0 if shift is None else float(shift.square().mean()) if bias is None else bias
        if name == "convolution" and (op.arguments[6] or op.arguments[8] != 1 or matrix.ndim != 4):
            raise UserError(f"{_where(op)} is a grouped, transposed or not two-dimensional convolution, which has no recursion here.")  # fmt: skip
        if name == "convolution":
            stride, padding, dilation = op.arguments[3:6]
            kernels = kernels.patches(matrix.shape[2:], stride, padding, dilation)
        return kernels.linear(variance, offset, fan_in if standard else None)
    shape = program.values[op.output].shape
    if name == "mean" and {d % 4 for d in op.argument(1, "dim")} == {2, 3} and kernels.spatial:
        pooled = kernels.global_pool()
        return pooled if len(shape) == 2 else Kernels(*(k[..., None, None, None, None] for k in (pooled.nngp, pooled.ntk)))  # fmt: skip
    if name == "avg_pool2d" and not any(op.argument(3, "padding", (0, 0))):
        size = op.argument(1, "kernel_size")
        return kernels.pooled(size, op.argument(2, "stride", ()) or size)
    if name in ("view", "reshape", "clone", "alias"):
        if len(shape) == 2:
            return kernels.flatten()
        if shape == program.values[op.inputs[0]].shape:
            return kernels
    if name == "add" and len(inputs) == 2 and len(op.inputs) == 2:
        return inputs[0] + inputs[1]
    if name == "mul" and len(op.inputs) == 1 and isinstance(op.arguments[1], int | float):
        return kernels.scaled(float(op.arguments[1]))
    if name in DUALS and not op.keywords and len(op.arguments) == 1:
        return kernels.activation(DUALS[name])
    raise UserError(f"{_where(op)} has no infinite-width recursion; known are linear layers, convolutions, average pooling and {', '.join(DUALS)}.")  # fmt: skip


def _where(op: Op) -> str:
    return place(op)


@dataclass(frozen=True)
class InfiniteKernel:
    """Infinite-width kernels beside the empirical kernel of the module as it is.

    Args:
        subject: the model's name.
        nngp: K, `[N, N]`.
        ntk: Θ in the standard parametrization, `[N, N]`.
        empirical: the module's own kernel, mean of the trace over outputs, `[N, N]`.
    """

    subject: str
    nngp: np.ndarray[Any, Any]
    ntk: np.ndarray[Any, Any]
    empirical: np.ndarray[Any, Any]

    @property
    def distance(self) -> float:
        """‖Θ_empirical − Θ‖ / ‖Θ‖."""
        return float(np.linalg.norm(self.empirical - self.ntk) / np.linalg.norm(self.ntk))

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        return f"the tangent kernel of {self.subject} is {self.distance:.1%} of its norm away from the kernel of the same layers at infinite width."

    def to_frame(self) -> pd.DataFrame:
        """One row a pair of samples."""
        rows, columns = np.triu_indices(len(self.ntk))
        return pd.DataFrame({
            "sample": rows, "other": columns, "nngp": self.nngp[rows, columns], "ntk": self.ntk[rows, columns],
            "empirical": self.empirical[rows, columns],
        })  # fmt: skip

    def plot(self) -> go.Figure:
        """The three kernels side by side."""
        drawing = make_subplots(1, 3, subplot_titles=("NNGP", "tangent kernel, infinite width", "tangent kernel, as it is"))  # fmt: skip
        for column, matrix in enumerate((self.nngp, self.ntk, self.empirical), start=1):
            drawing.add_trace(
                go.Heatmap(z=matrix, colorscale=SEQUENTIAL, coloraxis=None if column == 1 else "coloraxis", showscale=False),
                row=1, col=column,
            )  # fmt: skip
        drawing.update_yaxes(autorange="reversed")
        drawing.update_layout(coloraxis={"colorscale": SEQUENTIAL, "colorbar": {"thickness": 10, "outlinewidth": 0}})
        return styled(drawing, height=320)


class InfiniteKernelOptions(Options):
    """How many samples; C_W and C_b, none for the module's own."""

    samples: int = Field(24, ge=2)
    weight: float | None = None
    bias: float | None = None


@analysis("infinite_kernel", of="module", options=InfiniteKernelOptions, tiny={"samples": 6})
def infinite_kernel(subject: Subject, options: InfiniteKernelOptions) -> InfiniteKernel:
    """NNGP and tangent kernels of a model's layers at infinite width, beside its own tangent kernel."""
    inputs = subject.real(options.samples) if subject.real else subject.inputs
    if len(inputs) != 1 or not inputs[0].is_floating_point() or inputs[0].ndim not in (2, 4):
        raise UserError(f"{subject.name!r} does not take one real tensor [N, features] or [N, C, H, W], so it has no recursion here.")  # fmt: skip
    found = infinite_kernels(subject.module, inputs[0], options.weight, options.bias, standard=True)
    own = empirical_kernel(subject.module, inputs, form="trace", reduction="mean").values
    return InfiniteKernel(subject.name, found.nngp.numpy(), found.ntk.numpy(), own.detach().double().numpy())
