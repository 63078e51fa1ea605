"""Recall of stored patterns: 32 handwritten digits as ±1 patterns, to be found again from corrupted copies."""

import torch
from torch import Tensor

from modelzoo.metrics import mean_squared_error, overlap
from modelzoo.task import Spec, Split, Task, TaskData, register
from modelzoo.tasks.digits import SOURCE, images

PATTERNS = 32
UNITS = 64
COPIES = 32
FLIPPED = 0.15


def archetypes() -> Tensor:
    """The stored patterns `[PATTERNS, UNITS]`: the first digits of the fixed shuffle, +1 where ink covers half a pixel."""
    x, _ = images()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return torch.where(x[order[:PATTERNS]].flatten(1) >= 0.5, 1.0, -1.0)


def corrupt(patterns: Tensor, copies: int, generator: torch.Generator) -> Split:
    """`copies` versions of every pattern with each unit flipped with probability `FLIPPED`; targets are the originals."""
    targets = patterns.repeat(copies, 1)
    flips = torch.rand(targets.shape, generator=generator) < FLIPPED
    return Split((torch.where(flips, -targets, targets),), targets)


def load() -> TaskData:
    """32 corrupted copies of every pattern for training, 8 fresh ones for testing."""
    generator = torch.Generator().manual_seed(1)
    return TaskData(corrupt(archetypes(), COPIES, generator), corrupt(archetypes(), 8, generator))


def overlap_of_input(data: TaskData) -> float:
    """Overlap on the test split of answering the corrupted pattern itself."""
    return float(overlap(data.test.inputs[0], data.test.targets))


TASK = register(
    Task(
        name="patterns",
        summary="Which of 32 stored 8×8 patterns is it, with 15% of its units flipped?",
        source=f"{SOURCE}, binarised at half ink; units flipped at random",
        inputs=Spec("pattern", (UNITS,), PATTERNS),
        targets=Spec("pattern", (UNITS,), PATTERNS),
        loss=mean_squared_error,
        metric="overlap",
        score=overlap,
        higher_is_better=True,
        baseline="the corrupted pattern itself",
        load=load,
        baseline_score=overlap_of_input,
        notes={"classes": "the number of stored patterns"},
    )
)
