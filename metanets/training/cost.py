"""What one training step costs: processor time, and the peak of the tensor memory it allocates.

Processor time, and not the clock's, so that a leaderboard that runs beside other work can be compared with itself.
"""

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from metanets.training.data import Batch
from metanets.training.module import Predictor

STEPS = 5


@dataclass(frozen=True)
class StepCost:
    """Of one training step.

    Args:
        milliseconds: median processor time, over all threads, of zero_grad, forward, backward and optimizer.
        megabytes: the most that its tensors held at once, above what was there before the step.
    """

    milliseconds: float
    megabytes: float


def step_cost(predictor: Predictor, batch: Batch) -> StepCost:
    """The cost of a step on a batch; the predictor's weights are changed.

    Args:
        predictor: the network that is trained.
        batch: models and targets.
    """
    predictor.train()
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=1e-5)

    def step() -> None:
        optimizer.zero_grad()
        predictor.raw(batch).outputs.square().mean().backward()
        optimizer.step()

    step()  # the optimizer's state, and what topologies compute once
    seconds = []
    for _ in range(STEPS):
        started = time.process_time()
        step()
        seconds.append(time.process_time() - started)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    return StepCost(1e3 * median(seconds), _peak(profiler) / 2**20)


def _peak(profiler: profile) -> int:
    """The largest sum of allocations minus releases, in bytes."""
    inner: Any = profiler.profiler
    changes = [(e.start_ns(), e.nbytes()) for e in inner.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for _, change in sorted(changes, key=lambda entry: entry[0]):
        held += change
        peak = max(peak, held)
    return peak
