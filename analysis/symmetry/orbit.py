"""Walking along an orbit: weights move, the function stays; a step of the same length elsewhere changes it.

For a continuous factor of the group the path is a one-parameter subgroup, θ(t) = exp(tX)·θ; for a permutation factor
it is a single transposition; for any other discrete factor (signs, swaps, periods) a random element. Beside every point stands a *control*: θ + d with ‖d‖ = ‖θ(t) − θ‖ in every tensor and a
fixed random direction, which is no symmetry. The function error is max |f(θ') − f(θ)| / max |f(θ)| in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from analysis.analysis import Options, analysis
from analysis.maps import as_matrix
from analysis.theme import DIVERGING, FOCUS, INK, REFERENCE, TARGET, figure, styled
from analysis.weights import Array
from graphs import GroupElement, SymmetryGroup
from graphs.blame import relative
from graphs.factors import Factor, PermutationFactor
from graphs.interpreter import widen
from graphs.scalings.linear import LinearFactor
from graphs.subjects import Subject
from graphs.symmetry import symmetry
from graphs.verify import double_precision, outputs, random_inputs
from modelzoo.errors import UserError

SQUARINGS = 20
FLOOR = 1e-17  # where an error of exactly 0 is drawn on a logarithmic scale
ROUNDING = float(np.finfo(np.float64).eps)
MOST_MAPS = 6


def spoken(error: float) -> str:
    """An error in words; nothing is rounded to 0."""
    if not error:
        return "exactly 0"
    return f"{error:.1e}" if error < 0.01 else f"{error:.2g}"


def title(name: str, shape: tuple[int, ...]) -> str:
    """The heading of a heat map: a tensor's module, its name there and its shape under each other."""
    module, _, leaf = name.rpartition(".")
    small = "<span style='font-size:{}px'>{}</span>"
    return "<br>".join([small.format(9 if len(module) > 16 else 10, module), leaf, small.format(10, " × ".join(map(str, shape)))])  # fmt: skip


@dataclass(frozen=True)
class Move:
    """One element of a group applied to a model, and the control beside it.

    Args:
        factor: the factor it belongs to.
        words: what the element does.
        before, after, control: the tensors that the factor moves, by name.
        length: ‖after − before‖ / ‖before‖ over these tensors; the control's is the same.
        error: relative change of the function.
        control_error: the same for the control.
    """

    factor: str
    words: str
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    control: dict[str, Tensor]
    length: float
    error: float
    control_error: float

    @property
    def sentence(self) -> str:
        """What happened, in one sentence."""
        return (
            f"{self.words}: the weights move by {self.length:.1%} of their norm, the function by {spoken(self.error)}; "
            f"a step of the same length in a non-symmetric direction changes it by {spoken(self.control_error)}."
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a tensor: its norm and how far it moves."""
        rows = [
            {
                "tensor": name,
                "shape": tuple(before.shape),
                "norm before": float(before.norm()),
                "norm after": float(self.after[name].norm()),
                "distance": float((self.after[name] - before).norm()),
            }
            for name, before in self.before.items()
        ]
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Heat maps of the moved tensors before, after, and their difference, on one diverging scale."""
        names = sorted(self.before, key=lambda name: -self.before[name].ndim)[:MOST_MAPS]
        names = [name for name in self.before if name in names]
        titles = [title(name, tuple(self.before[name].shape)) for name in names]
        rows = ("before", "after", "difference")
        columns = [
            [as_matrix(self.before[n]), as_matrix(self.after[n]), as_matrix(self.after[n] - self.before[n])]
            for n in names
        ]
        limit = max(float(np.quantile(np.abs(column[0]), 0.995)) for column in columns) or 1.0
        drawing = make_subplots(
            3, len(names), subplot_titles=titles, row_titles=rows, horizontal_spacing=0.03, vertical_spacing=0.05,
            column_widths=[max(np.sqrt(column[0].shape[1]), 1.4) for column in columns],
        )  # fmt: skip
        for place, (name, column) in enumerate(zip(names, columns, strict=True), start=1):
            for row, matrix in enumerate(column, start=1):
                drawing.add_trace(
                    go.Heatmap(
                        z=matrix, coloraxis="coloraxis", name=f"{name} {rows[row - 1]}",
                        hovertemplate="row %{y}, column %{x}<br>%{z:.4g}<extra>%{fullData.name}</extra>",
                    ), row=row, col=place,
                )  # fmt: skip
        drawing.update_xaxes(showticklabels=False, showgrid=False, ticks="")
        drawing.update_yaxes(showticklabels=False, showgrid=False, ticks="", autorange="reversed")
        styled(drawing, height=560)
        return drawing.update_layout(
            margin={"l": 30, "r": 28, "t": 60, "b": 8},
            coloraxis={
                "colorscale": DIVERGING, "cmin": -limit, "cmax": limit, "cmid": 0,
                "colorbar": {"thickness": 10, "len": 0.6, "outlinewidth": 0, "x": 1.035},
            },
        )  # fmt: skip

    def plot_errors(self) -> go.Figure:
        """The two function errors as points on one logarithmic axis; 0 is drawn at 1e-17."""
        values = np.array([self.error, self.control_error])
        drawing = figure(height=190)
        drawing.add_trace(
            go.Scatter(
                x=np.maximum(values, FLOOR), y=["symmetry", "non-symmetric direction,<br>same step length"], mode="markers+text",
                marker={"size": 13, "color": [TARGET, FOCUS]}, text=[spoken(value) for value in values],
                textposition="top center", hoverinfo="skip", cliponaxis=False,
            )
        )  # fmt: skip
        drawing.add_vline(x=ROUNDING, line={"color": REFERENCE, "width": 1, "dash": "dot"})
        drawing.update_xaxes(type="log", exponentformat="power", dtick=4, range=[-17.6, 1.5], title_text="relative function error")  # fmt: skip
        drawing.update_yaxes(range=[-0.5, 1.6], ticks="")
        return drawing.update_layout(margin={"t": 12}, showlegend=False)


@dataclass(frozen=True)
class OrbitPath:
    """Function errors along θ(t) = exp(tX)·θ and along a straight line of the same step lengths.

    Args:
        factor: name of the factor that X belongs to.
        kind: its group.
        times: `[step]`.
        lengths: `[step]` ‖θ(t) − θ‖ / ‖θ‖ over the tensors that the factor moves.
        errors: `[step]` relative change of the function on the path.
        control_errors: `[step]` the same for the control.
        marked: the time that is looked at, None for none.
    """

    factor: str
    kind: str
    times: Array
    lengths: Array
    errors: Array
    control_errors: Array
    marked: float | None = None

    def to_frame(self) -> pd.DataFrame:
        """One row a time."""
        return pd.DataFrame(
            {"t": self.times, "length": self.lengths, "error": self.errors, "control error": self.control_errors}
        )

    def plot(self) -> go.Figure:
        """Both errors over t, logarithmically; 0 is drawn at 1e-17."""
        drawing = figure(height=300)
        away = self.lengths > 0  # at t = 0 nothing has moved
        for name, values, colour in (
            ("non-symmetric direction, same step length", self.control_errors, FOCUS),
            ("symmetry", self.errors, TARGET),
        ):
            drawing.add_trace(
                go.Scatter(
                    x=self.times, y=np.where(away, np.maximum(values, FLOOR), np.nan), mode="lines+markers", name=name, line={"color": colour, "width": 2},
                    marker={"size": 4}, customdata=np.stack([values, self.lengths], 1),
                    hovertemplate="t = %{x:.2f}: function error %{customdata[0]:.1e}, step length %{customdata[1]:.1%}<extra></extra>",
                )
            )  # fmt: skip
        drawing.add_scatter(x=self.times[[0, -1]], y=[ROUNDING, ROUNDING], mode="lines", name="float64 rounding", line={"color": REFERENCE, "width": 1, "dash": "dot"}, hoverinfo="skip")  # fmt: skip
        if self.marked is not None:
            drawing.add_vline(x=self.marked, line={"color": INK, "width": 1, "dash": "dot"})
        drawing.update_yaxes(type="log", exponentformat="power", dtick=4, title_text="relative function error")
        drawing.update_xaxes(title_text="t")
        return drawing.update_layout(margin={"t": 40})


class Walker:
    """A model in float64 with its group, ready to be moved.

    Args:
        group: the symmetry group of the module.
        module: the module; it is left as it is.
        example_inputs: what the function is compared on.
        seed: of the direction X and of the control.
    """

    def __init__(self, group: SymmetryGroup, module: nn.Module, example_inputs: Sequence[Any], seed: int = 0) -> None:
        self.group = group
        self.module = module
        self.inputs = random_inputs(example_inputs, torch.Generator().manual_seed(seed), first=True)
        self.seed = seed
        named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers()]
        self.tensors: dict[str, Tensor] = {name: widen(tensor.detach()) for name, tensor in named}
        self.reference = self._outputs(self.tensors)

    def _outputs(self, tensors: dict[str, Tensor]) -> list[Tensor]:
        with double_precision(self.module) as double:
            return outputs(functional_call(double, tensors, self.inputs, tie_weights=False))

    def error(self, changed: dict[str, Tensor]) -> float:
        """Relative change of the function when some tensors change."""
        after = self._outputs(self.tensors | changed)
        return max((relative(a, b) for a, b in zip(self.reference, after, strict=True)), default=0.0)

    def move(self, factor: Factor, parameters: Tensor, words: str) -> Move:
        """Apply the element of one factor, and a control of the same length."""
        moved = GroupElement(self.group, ((factor, parameters),)).apply(self.tensors)
        names = dict.fromkeys(slot.tensor for slot in factor.slots)
        before = {name: self.tensors[name] for name in names}
        after = {name: moved[name] for name in names}
        generator = torch.Generator().manual_seed(self.seed)
        control = {}
        for name, tensor in before.items():
            direction = torch.randn(tensor.shape, dtype=tensor.dtype, generator=generator)
            control[name] = tensor + direction * ((after[name] - tensor).norm() / direction.norm())
        distance = torch.stack([(after[name] - before[name]).norm() for name in names]).norm()
        length = distance / torch.stack([before[name].norm() for name in names]).norm().clamp_min(1e-300)
        return Move(factor.name, words, before, after, control, float(length), self.error(after), self.error(control))

    def along(self, factor: str, time: float) -> Move:
        """The move θ → exp(tX)·θ; raises `UserError` for a factor without a direction."""
        chosen = self.group[factor]
        return self.move(chosen, subgroup(chosen, time, self.seed), f"{chosen.kind}, t = {time:.2f}")

    def path(self, factor: str, times: Sequence[float]) -> OrbitPath:
        """The errors along a one-parameter subgroup."""
        moves = [self.along(factor, time) for time in times]
        return OrbitPath(
            factor, self.group[factor].kind, np.array(times), np.array([move.length for move in moves]),
            np.array([move.error for move in moves]), np.array([move.control_error for move in moves]),
        )  # fmt: skip

    def transposition(self, factor: str, first: int, second: int, copy_index: int = 0) -> Move:
        """Swap two neurons (or blocks) of a permutation factor; raises `UserError` when they are not there."""
        chosen = self.group[factor]
        if not isinstance(chosen, PermutationFactor):
            raise UserError(f"factor {factor!r} is {chosen.kind}, which has no transpositions; choose a permutation factor.")  # fmt: skip
        parameters = chosen.identity().clone()
        copies, count = parameters.shape
        if not (0 <= first < count and 0 <= second < count and first != second and 0 <= copy_index < copies):
            raise UserError(f"{chosen.kind} of {factor!r} has no swap of {first} and {second}; choose two different numbers from 0 to {count - 1}.")  # fmt: skip
        parameters[copy_index, [first, second]] = parameters[copy_index, [second, first]]
        return self.move(chosen, parameters, f"{first} ↔ {second} in {chosen.kind}")

    def drawn(self, factor: str, seed: int) -> Move:
        """A random element of one factor: signs, swaps of branches, whole periods, whatever it is made of."""
        chosen = self.group[factor]
        parameters = chosen.sample(torch.Generator().manual_seed(seed))
        return self.move(chosen, parameters, f"random element {seed} of {chosen.kind}")


def subgroup(factor: Factor, time: float, seed: int = 0) -> Tensor:
    """Parameters of exp(tX): the matrix exponential where elements are matrices, else the limit of (e + tX/n)ⁿ.

    The limit is taken by repeated squaring in the group itself with n = 2²⁰: whatever the coordinates mean, a power of
    a group element is one, and n only decides how close it comes to exp.

    Args:
        factor: a continuous factor.
        time: t.
        seed: of the direction X, normal with entries of size about 1/2 (1/2√n in n × n matrices; skew for O(n)).

    Raises:
        UserError: the factor is discrete.
    """
    if factor.dimension == 0:
        raise UserError(f"factor {factor.name!r} is {factor.kind}, which is discrete; choose one with a dimension.")
    start = factor.identity().double()
    direction = torch.randn(start.shape, dtype=start.dtype, generator=torch.Generator().manual_seed(seed)) / 2
    if isinstance(factor, LinearFactor):
        direction = (direction - direction.mT if factor.orthogonal else direction) / factor.size**0.5
        return torch.linalg.matrix_exp(time * direction)
    element = start + direction * (time / 2**SQUARINGS)
    for _ in range(SQUARINGS):
        element = factor.compose(element, element)
    return element


class OrbitOptions(Options):
    """Which factor to walk along, and how far: `times` values of t from −reach to reach; "" is the first continuous one."""

    factor: str = ""
    times: int = Field(21, ge=2)
    reach: float = Field(2.0, gt=0)
    seed: int = 0


@analysis("orbit", of="module", options=OrbitOptions, tiny={"times": 3})
def orbit(subject: Subject, options: OrbitOptions) -> OrbitPath:
    """Function error along a one-parameter subgroup, beside steps of the same length elsewhere."""
    group = symmetry(subject.module, subject.inputs, verify=False)
    continuous = [factor.name for factor in group.factors if factor.dimension]
    if not options.factor and not continuous:
        raise UserError(f"the symmetry group of {subject.name!r} is discrete; there is no orbit to walk along.")
    walker = Walker(group, subject.module, subject.inputs, options.seed)
    return walker.path(
        options.factor or continuous[0], np.linspace(-options.reach, options.reach, options.times).tolist()
    )
