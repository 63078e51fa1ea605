"""Parity of a bit string: every bit matters, and no part of the string tells anything by itself."""

import torch
from torch.nn import functional as F

from modelzoo.metrics import accuracy, majority_accuracy
from modelzoo.task import Spec, Split, Task, TaskData, register

LENGTH = 8
TEST = 64


def load() -> TaskData:
    """All 256 strings of 8 bits in a fixed order; the last 64 are the test split."""
    numbers = torch.randperm(2**LENGTH, generator=torch.Generator().manual_seed(0))
    bits = numbers.unsqueeze(1) >> torch.arange(LENGTH) & 1  # [string, time]
    parity = bits.sum(1) % 2
    return TaskData(Split((bits[:-TEST],), parity[:-TEST]), Split((bits[-TEST:],), parity[-TEST:]))


TASK = register(
    Task(
        name="parity",
        summary="Is the number of ones among 8 bits odd?",
        source="generated: every string of 8 bits",
        inputs=Spec("tokens", (LENGTH,), 2),
        targets=Spec("classes", (), 2),
        loss=F.cross_entropy,
        metric="accuracy",
        score=accuracy,
        higher_is_better=True,
        baseline="always the more frequent parity",
        load=load,
        baseline_score=majority_accuracy,
    )
)
