"""The coordinate check: how far activations move in a few steps of training, against width.

In the log-log plot the slope of a hidden activation's change is −r (`Scheme.feature_exponent`): 0 in μP, −1/2 in the
neural tangent parametrization; in the standard one with Adam it grows. "Tensor Programs V: Tuning Large Neural Networks
via Zero-Shot Hyperparameter Transfer" (Yang et al., 2022), S103 and S030.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from analysis.activations import activations, sites_of, tensors_of
from analysis.analysis import Options, analysis
from analysis.parametrization.abc_parametrization import Parametrization, check_scores, parametrize
from analysis.parametrization.schemes import Optimizer, Scheme, scheme
from analysis.parametrization.widening import Widening, widening
from analysis.parametrization.widths import base_tensors, root_mean_square
from analysis.theme import CATEGORICAL, figure
from graphs.program import Program, trace
from graphs.subjects import Subject
from modelzoo.errors import UserError
from modelzoo.task import Task

ROW = "S030"
Loss = Callable[[nn.Module], Tensor]


@dataclass(frozen=True)
class CoordinateCheck:
    """Changes of activations after training, by width.

    Args:
        scheme: the parametrization.
        widths: `[width]` relative to the narrowest.
        sites: tensors whose results are looked at, in program order.
        roles: of these tensors.
        changes: `[site, width]` root mean square change, the geometric mean over seeds.
        starts: `[site, width]` root mean square at initialisation, likewise.
    """

    scheme: Scheme
    widths: NDArray[np.float64]
    sites: tuple[str, ...]
    roles: tuple[str, ...]
    changes: NDArray[np.float64]
    starts: NDArray[np.float64]

    @property
    def slopes(self) -> NDArray[np.float64]:
        """`[site]` slope of log change against log width, by least squares."""
        return np.polyfit(np.log(self.widths), np.log(self.changes).T, 1)[0]

    @property
    def hidden_slopes(self) -> NDArray[np.float64]:
        """The slopes of the sites below the output."""
        return self.slopes[[role != "output" for role in self.roles]]

    @property
    def sentence(self) -> str:
        """The slopes beside what the exponents say."""
        low, high = self.hidden_slopes.min(), self.hidden_slopes.max()
        said = f"theory −r = {-self.scheme.feature_exponent + 0.0:g} for the steepest"
        return f"{self.scheme.name} with {self.scheme.optimizer}: slopes of hidden changes from {low:.3f} to {high:.3f} ({said})"

    def to_frame(self) -> pd.DataFrame:
        """One row a site and width."""
        return pd.DataFrame([
            {"site": site, "role": self.roles[i], "width": float(width), "start": float(self.starts[i, k]),
             "change": float(self.changes[i, k]), "slope": float(self.slopes[i])}
            for i, site in enumerate(self.sites) for k, width in enumerate(self.widths)
        ])  # fmt: skip

    def plot(self) -> go.Figure:
        """Change over width, one line a site."""
        chart = figure()
        for i, site in enumerate(self.sites):
            chart.add_scatter(
                x=self.widths, y=self.changes[i], mode="lines+markers", name=f"{site} ({self.slopes[i]:+.2f})",
                line={"color": CATEGORICAL[i % len(CATEGORICAL)], "dash": "dash" if self.roles[i] == "output" else "solid"},
                hovertemplate="width × %{x:g}: %{y:.3g}<extra></extra>",
            )  # fmt: skip
        return chart.update_layout(
            xaxis_title="width, relative", yaxis_title="change of activations", xaxis_type="log", yaxis_type="log",
            xaxis_tickvals=self.widths.tolist(),
        )  # fmt: skip


def train(parametrization: Parametrization, losses: Iterator[Loss], steps: int, learning_rate: float) -> list[float]:
    """Train in place; the loss before every step.

    Args:
        parametrization: the module and its parameter groups.
        losses: one loss a step, a function of the module.
        steps: how many.
        learning_rate: η.
    """
    module, optimizer = parametrization.module, parametrization.optimizer(learning_rate)
    found = []
    for _, loss in zip(range(steps), losses, strict=False):
        value = loss(module)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        found.append(float(value.detach()))
    return found


def activation_changes(
    parametrization: Parametrization,
    program: Program,
    inputs: Sequence[Tensor],
    losses: Iterator[Loss],
    steps: int,
    learning_rate: float,
) -> dict[str, tuple[float, float]]:
    """Root mean square of every site at initialisation, and of its change after training.

    Args:
        parametrization: from `parametrize`; its module is trained.
        program: the traced module.
        inputs: on which activations are compared, of the shapes of one call.
        losses, steps, learning_rate: see `train`.
    """
    module = parametrization.module
    sites = sites_of(program)

    before = activations(program, tensors_of(module), inputs, sites)
    train(parametrization, losses, steps, learning_rate)
    after = activations(program, tensors_of(module), inputs, sites)
    return {name: (root_mean_square(before[name]), root_mean_square(after[name] - before[name])) for name in sites}


def check_coordinates(
    build: Callable[[int, int], nn.Module], inputs: Sequence[Tensor], losses: Callable[[int], Iterator[Loss]], chosen: Scheme,
    factors: Sequence[int], steps: int = 3, learning_rate: float = 0.01, seeds: int = 3,
) -> CoordinateCheck:  # fmt: skip
    """Train members of several widths for a few steps and measure how far their activations move.

    Args:
        build: `(factor, seed) -> module`.
        inputs: on which activations are compared.
        losses: `(seed) -> losses`, one a step.
        chosen: the parametrization.
        factors: widths relative to the narrowest, rising.
        steps: of training.
        learning_rate: η at the width of the base.
        seeds: members of every width; the base is the first of the narrowest.

    Raises:
        UserError: training diverges, or the scheme does not fit (`parametrize`).
    """
    shapes, narrow = base_tensors(build(factors[0], 0)), trace(build(factors[0], 0), inputs)
    logs: dict[str, list[list[tuple[float, float]]]] = {}
    roles: dict[str, str] = {}
    for factor in factors:
        program = narrow if factor == factors[0] else trace(build(factor, 0), inputs)
        if chosen.learns_features:
            check_scores(narrow, program, chosen)
        for seed in range(seeds):
            made = parametrize(build(factor, seed), inputs, chosen, shapes, program=program)
            if factor == factors[-1]:
                roles = {name: rule.tensor.role for rule in made.rules for name in rule.tensor.names}
            for name, pair in activation_changes(made, program, inputs, losses(seed), steps, learning_rate).items():
                logs.setdefault(name, []).append([np.log(max(value, 1e-300)) for value in pair])
    values = np.exp(np.array([logs[name] for name in logs]).reshape(len(logs), len(factors), seeds, 2).mean(2))
    if not np.isfinite(values).all():
        raise UserError(f"training diverged at learning rate {learning_rate:g}; choose a smaller one.")
    return CoordinateCheck(
        chosen, np.asarray(factors, float), tuple(logs), tuple(roles[name] for name in logs), values[..., 1], values[..., 0]
    )  # fmt: skip


def losses_of(task: Task, batch: int, seed: int) -> Iterator[Loss]:
    """One loss a step, on random batches of a task's training samples (or on all of them, where sampling is full)."""
    split = task.data().train
    draw = np.random.default_rng(seed)
    while True:
        rows = slice(None) if task.sampling == "full" else draw.integers(len(split.targets), size=batch)

        def loss(module: nn.Module, rows: slice | NDArray[np.int64] = rows) -> Tensor:
            outputs, targets = module(*(x[rows] for x in split.inputs)), split.targets[rows]
            return task.loss(outputs, targets) if split.mask is None else task.loss(outputs[split.mask], targets[split.mask])  # fmt: skip

        yield loss


class WidthOptions(Options):
    """A parametrization, and the widths as multiples of the family's tiny member.

    `fields` names the sizes of the config to multiply; none are named where they are found by themselves. `config` changes
    that member, e.g. its depth.
    """

    scheme: str = "mup"
    optimizer: Optimizer = "adam"
    factors: tuple[int, ...] = Field((4, 8, 16, 32, 64), min_length=2)
    fields: tuple[str, ...] = ()
    config: dict[str, Any] | None = None
    batch: int = Field(64, ge=1)
    seeds: int = Field(3, ge=1)

    def widen(self, subject: Subject) -> Widening:
        """The subject's family at several widths.

        Raises:
            UserError: the subject is no family, or trains on one instance a model.
        """
        if "/" in subject.name or ":" in subject.name:
            raise UserError(f"{subject.name!r} has one width; name a family, whose members are trained at several.", 2)
        found = widening(subject.name, self.fields, self.config)
        if found.task.instances:
            raise UserError(f"task {found.task.name!r} has a target for every model; choose a family of another task.")
        return found


class CoordinateCheckOptions(WidthOptions):
    """See `WidthOptions`; `steps` of training at `learning_rate`."""

    steps: int = Field(3, ge=1)
    learning_rate: float = Field(0.01, gt=0)


@analysis(
    "coordinate_check",
    of="module",
    options=CoordinateCheckOptions,
    tiny={"factors": (1, 4), "seeds": 1, "steps": 2, "fields": ("hidden",)},
)
def coordinate_check(subject: Subject, options: CoordinateCheckOptions) -> CoordinateCheck:
    """How far activations move in a few training steps, against width: flat in μP."""
    wide = options.widen(subject)
    return check_coordinates(
        wide.build, wide.inputs(options.batch), lambda seed: losses_of(wide.task, options.batch, seed),
        scheme(options.scheme, options.optimizer), options.factors, options.steps, options.learning_rate, options.seeds,
    )  # fmt: skip
