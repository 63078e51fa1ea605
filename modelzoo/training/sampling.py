"""Which samples a model sees, and in which order: a function of its own seed."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelzoo.task import Task, TaskData


def sample_rows(task: Task, data: TaskData, hyperparameters: pd.DataFrame, batch_size: int) -> Iterator[Tensor | None]:
    """Rows of every step, `[model, batch]`: each model walks through its own subset in its own order, epoch by epoch."""
    if task.sampling == "full":
        while True:
            yield None
    draws = [np.random.default_rng(int(seed)) for seed in hyperparameters["seed"]]
    subsets = [
        subset(draw, len(data.train.targets), fraction, batch_size)
        for draw, fraction in zip(draws, hyperparameters["data_fraction"], strict=True)
    ]
    queues = [np.zeros(0, dtype=np.int64) for _ in draws]
    while True:
        rows = np.empty((len(draws), batch_size), dtype=np.int64)
        for model, (draw, own) in enumerate(zip(draws, subsets, strict=True)):
            if len(queues[model]) < batch_size:
                queues[model] = draw.permutation(own)
            rows[model], queues[model] = queues[model][:batch_size], queues[model][batch_size:]
        yield torch.from_numpy(rows)


def subset(draw: np.random.Generator, count: int, fraction: float, least: int) -> NDArray[np.int64]:
    """Sorted rows of the training samples that a model sees."""
    return np.sort(draw.permutation(count)[: max(least, round(count * fraction))])
