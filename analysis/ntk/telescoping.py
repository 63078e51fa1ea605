"""The telescoping model of a trained network: first-order expansions at consecutive weights, added up.

"Deep Learning Through A Telescoping Lens: A Simple Model Provides Empirical Insights On Grokking, Gradient Boosting &
Beyond" (Jeffares, Curth and van der Schaar, 2024; row S193).

    f̃_T(x) = f_0(x) + Σ_t ∇f_{t−1}(x) · (θ_t − θ_{t−1})

beside the single expansion at the start, f_0 + ∇f_0 · (θ_T − θ_0). On the squared loss every step θ_t − θ_{t−1} is affine in
the training targets y (the preconditioner of Adam is taken as it was), so the model is a smoother f̃_T(x) = s_T(x) · y + c_T(x),
and N · mean ‖s_T(x)‖² counts the parameters that it effectively uses at x. The
polynomial problem, whose test error falls long after its training error, is that of "Grokking as the Transition from
Lazy to Rich Training Dynamics" (Kumar, Bordelon, Gershman and Pehlevan, 2024).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from analysis.analysis import Options, analysis
from analysis.theme import CATEGORICAL, figure

ROW = "S193"  # of the paper catalogue
Optimizer = Literal["sgd", "momentum", "adamw"]
MOMENTUM, BETA, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Telescope:
    """A training run and its models, on test inputs.

    Args:
        rows: one row a step looked at: `step`, `telescoping error` and `lazy error` (‖model − f‖ / ‖f − f_0‖ on test
            inputs), `train parameters` and `test parameters` (effective), `train loss`, `test loss`.
        smoother: s_T, `[M, N]`, of the test inputs.
        offset: c_T, `[M]`.
        predicted: f̃_T, `[M]`.
        network: f_T, `[M]`.
    """

    rows: pd.DataFrame
    smoother: Tensor
    offset: Tensor
    predicted: Tensor
    network: Tensor

    @property
    def correlation(self) -> float:
        """Correlation over steps of the test error with the ratio of effective parameters, test to training, logarithms of both."""
        used = np.log(self.rows["test parameters"] / self.rows["train parameters"])
        return float(np.corrcoef(used, np.log(self.rows["test loss"]))[0, 1])

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        last = self.rows.iloc[-1]
        return (
            f"after {last['step']:.0f} steps the telescoping model is {last['telescoping error']:.2%} away from the network, "
            f"the expansion at the start {last['lazy error']:.1%}; {last['train parameters']:.1f} effective parameters on "
            f"training inputs, {last['test parameters']:.1f} on test inputs, whose ratio correlates with the test error at {self.correlation:.2f}."
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a step."""
        return self.rows

    def plot(self) -> go.Figure:
        """Errors of both models over steps."""
        chart = figure()
        for name, colour in (("telescoping error", CATEGORICAL[0]), ("lazy error", CATEGORICAL[1])):
            chart.add_scatter(x=self.rows["step"], y=self.rows[name], name=name, line_color=colour)
        return chart.update_layout(
            xaxis_title="step", yaxis_title="relative error on test inputs", yaxis_type="log", yaxis_dtick=1
        )


def telescope(
    module: nn.Module, train: Tensor, targets: Tensor, test: Tensor, test_targets: Tensor, steps: int = 500,
    rate: float = 1e-3, optimizer: Optimizer = "adamw", weight_decay: float = 0.0, every: int = 50,
) -> Telescope:  # fmt: skip
    """Train a copy of a module on the mean of (f − y)² / 2 over all samples and follow its models.

    Args:
        module: with one output, a few thousand parameters at most (Jacobians are formed); left as it is.
        train: `[N, *]`.
        targets: y `[N]`.
        test: `[M, *]`.
        test_targets: `[M]`.
        steps: of the optimizer.
        rate: learning rate.
        optimizer: `sgd`, `momentum` (0.9) or `adamw`.
        weight_decay: decoupled.
        every: steps between rows.
    """
    shapes = {name: p.shape for name, p in module.named_parameters()}
    theta = torch.cat([p.detach().flatten() for p in module.parameters()]).double()
    x = torch.cat([train, test]).double()
    y = targets.double()
    count = len(train)

    def output(flat: Tensor, sample: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes.values()])
        own = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return functional_call(module, own, (sample[None],)).squeeze()

    def values(flat: Tensor) -> Tensor:
        return vmap(output, (None, 0))(flat, x)

    jacobian = vmap(jacrev(output), (None, 0))
    # affine in (y, 1): `[P, N + 1]` the step and the weights, `[N + M, N + 1]` the model's outputs
    unit = torch.cat([torch.eye(count, dtype=torch.float64), torch.zeros(count, 1, dtype=torch.float64)], 1)
    constants = torch.zeros(count + 1, dtype=torch.float64)
    constants[-1] = 1
    weights, velocity = theta[:, None] * constants, torch.zeros(len(theta), count + 1, dtype=torch.float64)
    start = values(theta)
    smooth = start[:, None] * constants
    second, first_jacobian, first_theta = torch.zeros_like(theta), jacobian(theta, x), theta
    telescoped, rows = start.clone(), []
    momentum, plain = torch.zeros_like(theta), {"sgd": 0.0, "momentum": MOMENTUM, "adamw": MOMENTUM}[optimizer]
    for step in range(1, steps + 1):
        rows_of = jacobian(theta, x)
        gradient = rows_of[:count].T @ (values(theta)[:count] - y) / count
        affine = rows_of[:count].T @ (smooth[:count] - unit) / count
        if optimizer == "adamw":
            momentum, velocity = plain * momentum + (1 - plain) * gradient, plain * velocity + (1 - plain) * affine
            second = BETA * second + (1 - BETA) * gradient.square()
            scale = rate / (1 - plain**step) / ((second / (1 - BETA**step)).sqrt() + EPSILON)
        else:
            momentum, velocity = plain * momentum + gradient, plain * velocity + affine
            scale = torch.full_like(theta, rate)
        change = -scale * momentum - rate * weight_decay * theta
        affine_change = -scale[:, None] * velocity - rate * weight_decay * weights
        telescoped = telescoped + rows_of @ change
        smooth = smooth + rows_of @ affine_change
        theta, weights = theta + change, weights + affine_change
        if step % every == 0 or step == steps:
            now = values(theta)
            lazy = start + first_jacobian @ (theta - first_theta)
            moved = (now - start)[count:].norm()
            own = smooth[:, :count].square().sum(1)
            rows.append({
                "step": step,
                "telescoping error": float((telescoped - now)[count:].norm() / moved),
                "lazy error": float((lazy - now)[count:].norm() / moved),
                "train parameters": float(count * own[:count].mean()), "test parameters": float(count * own[count:].mean()),
                "train loss": float((now[:count] - y).square().mean() / 2),
                "test loss": float((now[count:] - test_targets).square().mean() / 2),
            })  # fmt: skip
    return Telescope(pd.DataFrame(rows), smooth[count:, :count], smooth[count:, count], telescoped[count:], values(theta)[count:])  # fmt: skip


def toy_problem(samples: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs N(0, I_4) and y = sin(2 x_1) + x_2 x_3 with noise 0.1 on the training targets."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(2 * samples, 4, generator=draw, dtype=torch.float64)
    y = (2 * x[:, 0]).sin() + x[:, 1] * x[:, 2]
    noisy = y[:samples] + 0.1 * torch.randn(samples, generator=draw, dtype=torch.float64)
    return x[:samples], noisy, x[samples:], y[samples:]


class Committee(nn.Module):
    """f(x) = (α / m) Σ_j φ(w_j · x) − the same at the start, φ(h) = h + ε h² / 2: lazy for large α.

    Args:
        features: of x.
        width: m.
        scale: α.
        curvature: ε.
    """

    def __init__(self, features: int, width: int, scale: float, curvature: float = 0.25) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, features, dtype=torch.float64))
        self.start: Tensor
        self.register_buffer("start", self.weight.detach().clone())
        self.scale, self.curvature = scale, curvature

    def forward(self, x: Tensor) -> Tensor:
        now, before = x @ self.weight.T, x @ self.start.T
        moved = now - before + self.curvature * (now.square() - before.square()) / 2
        return self.scale * moved.mean(1, keepdim=True)


def polynomial_problem(samples: int, features: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs N(0, I / features) and y = (β · x)² / 2 for a direction β of norm √features; 200 test inputs."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(samples + 200, features, generator=draw, dtype=torch.float64) / features**0.5
    beta = torch.randn(features, generator=draw, dtype=torch.float64)
    y = (x @ (beta * features**0.5 / beta.norm())).square() / 2
    return x[:samples], y[:samples], x[samples:], y[samples:]


class TelescopingOptions(Options):
    """Optimizer, learning rate, steps, hidden width, samples; the problem: smooth, or a polynomial that is grokked.

    `scale` is α of the polynomial's network.
    """

    problem: Literal["smooth", "polynomial"] = "smooth"
    scale: float = Field(0.25, gt=0)
    features: int = Field(20, ge=1)
    optimizer: Optimizer = "adamw"
    rate: float = Field(1e-3, gt=0)
    steps: int = Field(500, ge=1)
    width: int = Field(32, ge=1)
    samples: int = Field(40, ge=2)
    weight_decay: float = Field(0.0, ge=0)
    seed: int = 0


@analysis("telescoping", of="nothing", options=TelescopingOptions, tiny={"steps": 20, "width": 8, "samples": 10})
def telescoping(options: TelescopingOptions) -> Telescope:
    """How well first-order expansions at consecutive weights, added up, describe the training of a small perceptron."""
    width = options.width
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        committee = Committee(options.features, width, options.scale)
        torch.manual_seed(options.seed)
        module = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)).double()  # fmt: skip
    grokking = options.problem == "polynomial"
    data = polynomial_problem(options.samples, options.features, options.seed) if grokking else toy_problem(options.samples, options.seed)  # fmt: skip
    return telescope(
        committee if grokking else module,
        *data,
        options.steps,
        options.rate,
        options.optimizer,
        options.weight_decay,
        max(1, options.steps // 10),
    )
