"""Spirals: trajectories of a cubic two-dimensional flow, to be predicted from their initial value."""

from math import pi

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from modelzoo.metrics import mean_squared_error, r2, r2_of_mean
from modelzoo.task import Spec, Split, Task, TaskData, register

TIMES = 10
HORIZON = 2.0
MATRIX = np.array([[-0.1, 2.0], [-2.0, -0.1]])


def flow(_: float, state: NDArray[np.float64]) -> NDArray[np.float64]:
    """dx/dt = A x³ (entrywise cube), a stable spiral; states flattened from `[sample, 2]`."""
    derivative: NDArray[np.float64] = (state.reshape(-1, 2) ** 3 @ MATRIX.T).ravel()
    return derivative


def trajectories(starts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The flow at `TIMES` equidistant times in [0, `HORIZON`]: starts `[sample, 2]` to `[sample, time, 2]`."""
    times = np.linspace(0, HORIZON, TIMES)
    solution = solve_ivp(flow, (0, HORIZON), starts.ravel(), t_eval=times, rtol=1e-8, atol=1e-8)
    states: NDArray[np.float64] = solution.y.reshape(len(starts), 2, TIMES).transpose(0, 2, 1)
    return states


def load() -> TaskData:
    """384 training and 128 test trajectories that start in the ring 0.5 ≤ |x| ≤ 1.25."""
    draw = np.random.default_rng(0)
    radius, angle = draw.uniform(0.5, 1.25, 512), draw.uniform(0, 2 * pi, 512)
    starts = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    x, y = (torch.from_numpy(array).float() for array in (starts, trajectories(starts)))
    return TaskData(Split((x[:384],), y[:384]), Split((x[384:],), y[384:]))


TASK = register(
    Task(
        name="spirals",
        summary="Where does a spiralling flow carry a point in the plane?",
        source="generated: scipy's solve_ivp on dx/dt = A x³, the spiral of Neural Ordinary Differential Equations' code",
        inputs=Spec("state", (2,)),
        targets=Spec("trajectory", (TIMES, 2)),
        loss=mean_squared_error,
        metric="r2",
        score=r2,
        higher_is_better=True,
        baseline="the mean training trajectory, whatever the start",
        load=load,
        baseline_score=r2_of_mean,
    )
)
