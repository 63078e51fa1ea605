"""Burgers' equation in one dimension: from the initial velocity to the velocity a moment later."""

from math import pi

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from modelzoo.metrics import mean_squared_error, r2, r2_of_mean
from modelzoo.task import Spec, Split, Task, TaskData, register

GRID = 64
VISCOSITY = 0.01
TIME = 0.5
MODES = 4


def derivative(_: float, flat: NDArray[np.float64], grid: int, viscosity: float) -> NDArray[np.float64]:
    """Method of lines for u_t = -(u²/2)_x + ν u_xx on the unit circle, by second-order central differences."""
    u = flat.reshape(-1, grid)
    left, right = np.roll(u, 1, 1), np.roll(u, -1, 1)
    rate: NDArray[np.float64] = -(right**2 - left**2) * (grid / 4) + viscosity * (right - 2 * u + left) * grid**2
    return rate.ravel()


def solve(start: NDArray[np.float64], time: float = TIME, viscosity: float = VISCOSITY) -> NDArray[np.float64]:
    """The solution at `time` for initial values `[sample, grid]`, all samples in one call of the integrator."""
    arguments = (start.shape[1], viscosity)
    solution = solve_ivp(derivative, (0, time), start.ravel(), args=arguments, t_eval=[time], rtol=1e-5, atol=1e-6)
    return solution.y[:, -1].reshape(start.shape)


def initial(count: int, draw: np.random.Generator) -> NDArray[np.float64]:
    """Random periodic functions Σ_k (a_k cos 2πkx + b_k sin 2πkx)/k with `MODES` standard normal modes, `[count, GRID]`."""
    position = np.arange(GRID) / GRID
    wave = np.arange(1, MODES + 1)
    phases = 2 * pi * wave[:, None] * position  # [mode, grid]
    cosine, sine = draw.standard_normal((2, count, MODES)) / wave
    values: NDArray[np.float64] = (cosine @ np.cos(phases) + sine @ np.sin(phases)) / 2
    return values


def load() -> TaskData:
    """512 training and 128 test pairs (initial velocity, velocity at time 0.5)."""
    start = initial(640, np.random.default_rng(0))
    x, y = (torch.from_numpy(array).float().unsqueeze(1) for array in (start, solve(start)))
    return TaskData(Split((x[:512],), y[:512]), Split((x[512:],), y[512:]))


TASK = register(
    Task(
        name="burgers",
        summary="How does a velocity field evolve under the viscous Burgers equation?",
        source="generated: method of lines with scipy's solve_ivp, 64 periodic grid points, viscosity 0.01, time 0.5",
        inputs=Spec("function", (1, GRID)),
        targets=Spec("function", (1, GRID)),
        loss=mean_squared_error,
        metric="r2",
        score=r2,
        higher_is_better=True,
        baseline="the mean training solution, whatever the initial velocity",
        load=load,
        baseline_score=r2_of_mean,
    )
)
