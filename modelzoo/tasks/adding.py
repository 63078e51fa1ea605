"""The adding problem: a regression that needs memory of two marked positions."""

import torch
from torch import Tensor

from modelzoo.metrics import mean_squared_error, mean_squared_error_of_mean
from modelzoo.task import Spec, Split, Task, TaskData, register

LENGTH = 16


def sequences(count: int, length: int, generator: torch.Generator) -> Split:
    """Sequences of (value, marker): values uniform in [0, 1], one marker in each half; the target is the marked sum.

    Args:
        count: number of sequences.
        length: time steps.
        generator: source of randomness.

    Returns:
        Inputs `[count, length, 2]`, targets `[count, 1]`.
    """
    values = torch.rand(count, length, generator=generator)
    half = length // 2
    first = torch.randint(0, half, (count, 1), generator=generator)
    second = torch.randint(half, length, (count, 1), generator=generator)
    markers = torch.zeros(count, length).scatter_(1, first, 1.0).scatter_(1, second, 1.0)
    targets: Tensor = (values * markers).sum(1, keepdim=True)
    return Split((torch.stack([values, markers], -1),), targets)


def load() -> TaskData:
    """4,096 training and 512 test sequences from a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    return TaskData(sequences(4096, LENGTH, generator), sequences(512, LENGTH, generator))


TASK = register(
    Task(
        name="adding",
        summary="What is the sum of the two marked numbers of a sequence of 16?",
        source="generated: the adding problem of Long Short-Term Memory (Hochreiter and Schmidhuber, 1997), length 16",
        inputs=Spec("sequence", (LENGTH, 2)),
        targets=Spec("vector", (1,)),
        loss=mean_squared_error,
        metric="mse",
        score=mean_squared_error,
        higher_is_better=False,
        baseline="the mean training sum, whatever the sequence (mean squared error 1/6)",
        load=load,
        baseline_score=mean_squared_error_of_mean,
    )
)
