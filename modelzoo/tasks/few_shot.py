"""Few-shot classification as a stream: five new classes in every sequence, shown with their labels, then asked for."""

import torch
from torch import Tensor
from torch.nn import functional as F

from modelzoo.task import Spec, Split, Task, TaskData, register

WAYS, SHOTS, FEATURES = 5, 3, 8
LENGTH = 2 * WAYS * SHOTS
SPREAD = 0.3
TRAIN, TEST = 4096, 512


def streams(count: int, generator: torch.Generator) -> Split:
    """Rounds of five labelled samples, one a class, and five samples without label, in random order each.

    Returns:
        Inputs `[count, LENGTH, FEATURES + WAYS]`, the last entries the label (one-hot, zeros where it is asked for);
        targets `[count, LENGTH]`.
    """
    prototypes = torch.randn(count, WAYS, FEATURES, generator=generator)
    labels = torch.rand(count, 2 * SHOTS, WAYS, generator=generator).argsort(-1)
    means = prototypes.gather(1, labels.flatten(1)[..., None].expand(-1, -1, FEATURES))
    samples = means + SPREAD * torch.randn(means.shape, generator=generator)
    shown = F.one_hot(labels, WAYS).float()
    shown[:, 1::2] = 0
    return Split((torch.cat([samples, shown.flatten(1, 2)], -1),), labels.flatten(1))


def queries(values: Tensor) -> Tensor:
    """The entries that belong to samples without label, `[sequence, LENGTH, *]` to `[sequence, SHOTS, WAYS, *]`."""
    return values.unflatten(1, (SHOTS, 2, WAYS))[:, :, 1]


def load() -> TaskData:
    """4,096 training sequences and 512 test sequences, all with prototypes of their own."""
    generator = torch.Generator().manual_seed(0)
    return TaskData(streams(TRAIN, generator), streams(TEST, generator))


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the samples without label; logits `[sequence, time, class]`, labels `[sequence, time]`."""
    return F.cross_entropy(queries(logits).flatten(0, 2), queries(labels).flatten())


def query_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Accuracy on samples without label, after the last round of labelled ones."""
    return (queries(logits).argmax(-1) == queries(labels))[:, -1].float().mean()


TASK = register(
    Task(
        name="few_shot",
        summary="Which of five classes, that are new in every sequence, is this sample of?",
        source="generated: Gaussian classes around random prototypes",
        inputs=Spec("sequence", (LENGTH, FEATURES + WAYS)),
        targets=Spec("tokens", (LENGTH,), WAYS),
        loss=cross_entropy,
        metric="accuracy",
        score=query_accuracy,
        higher_is_better=True,
        baseline="guessing among the five classes",
        load=load,
        baseline_score=lambda data: 1 / WAYS,
        notes={"accuracy": "after three labelled samples of every class"},
    )
)
