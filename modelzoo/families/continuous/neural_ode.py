"""The neural ordinary differential equation."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from modelzoo.errors import UserError
from modelzoo.family import Family, FamilyConfig, Paper, Recipe, register
from modelzoo.task import Task


class NeuralODEConfig(FamilyConfig):
    """Sizes of a `NeuralODE` and the fixed grid of its solver.

    `times` output times are equally spaced in [0, `horizon`], the first is the initial value; the solver makes `steps`
    steps between two of them.
    """

    dimensions: int = Field(2, gt=0)
    hidden: tuple[int, ...] = Field((32, 32), min_length=1)
    times: int = Field(10, gt=1)
    horizon: float = Field(1.0, gt=0)
    steps: int = Field(1, gt=0)


class NeuralODE(nn.Module):
    """Neural ordinary differential equation: an autonomous flow whose velocity is a tanh network.

    dx/dt = f(x), f(x) = W_L tanh(… tanh(W_1 x + b_1) …) + b_L, integrated by Kutta's 3/8 rule of order four.

    The solver is `torchdiffeq.odeint(f, x, t, method="rk4")` written out for a fixed grid, because that one checks the
    values of its times and writes in place, which can be neither exported nor vmapped.

    Shape:
        inputs `[B, dimensions]`; outputs `[B, times, dimensions]`.
    """

    def __init__(self, config: NeuralODEConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        size = config.dimensions
        for width in config.hidden:
            layers += [nn.Linear(size, width), nn.Tanh()]
            size = width
        self.velocity = nn.Sequential(*layers, nn.Linear(size, config.dimensions))

    def forward(self, x: Tensor) -> Tensor:
        config = self.config
        step = config.horizon / ((config.times - 1) * config.steps)
        states = [x]
        for _ in range(config.times - 1):
            for _ in range(config.steps):
                x = x + self.increment(x, step)
            states.append(x)
        return torch.stack(states, 1)

    def increment(self, x: Tensor, step: float) -> Tensor:
        """The change of x `[B, dimensions]` over one step of Kutta's 3/8 rule."""
        k1 = self.velocity(x)
        k2 = self.velocity(x + step * k1 / 3)
        k3 = self.velocity(x + step * (k2 - k1 / 3))
        k4 = self.velocity(x + step * (k1 - k2 + k3))
        return (k1 + 3 * (k2 + k3) + k4) * (step / 8)


def adapt(task: Task) -> dict[str, Any]:
    """Dimensions and number of times from the task's shapes."""
    times, dimensions = task.targets.shape
    if (dimensions,) != task.inputs.shape:
        raise UserError(
            f"family 'neural_ode' needs states and trajectories of the same dimension, task {task.name!r} gives "
            f"{task.inputs} and {task.targets}.", 2)  # fmt: skip
    return {"dimensions": dimensions, "times": times}


FAMILY = register(
    Family(
        name="neural_ode",
        module=NeuralODE,
        config=NeuralODEConfig,
        task="spirals",
        accepts=frozenset({"state"}),
        predicts=frozenset({"trajectory"}),
        adapt=adapt,
        paper=Paper("Neural Ordinary Differential Equations", "Chen et al.", 2018, "S066"),
        equation="dx/dt = f(x), f a tanh network; x(t_k) by Kutta's 3/8 rule",
        symmetry="signed permutations of every hidden layer of the velocity",
        recipe=Recipe(steps=600, learning_rate=1e-2),
        tiny={"hidden": (16,)},
        tiny_recipe=Recipe(steps=120, learning_rate=3e-2),
        margin=0.5,
        variants={"fine": {"steps": 4}},
    )
)
