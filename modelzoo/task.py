"""Contract 2, the task: data, loss, metric and the trivial baseline's score, deterministic and offline.

A task is one registration in one file under `modelzoo/tasks/`; the registry finds it there. Data is laid out so that
a whole population can be trained on it in lock-step:

* `inputs` is the tuple of tensors that a module's `forward` takes;
* with `sampling="minibatch"` every input and the targets have a leading sample axis, and training draws rows;
* with `sampling="full"` every step sees the whole split (a graph, the pixels of an image);
* with `instances > 0` the targets have one more leading axis `[instance, ...]` and each *model* is trained on one
  instance (an implicit neural representation of one image); `instance_labels` go to the zoo.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from modelzoo.registry import Registry

Kind = Literal[
    "vector",  # [features] float
    "image",  # [channels, height, width] float
    "sequence",  # [time, channels] float
    "tokens",  # [time] int64, `classes` is the size of the vocabulary
    "coordinates",  # [dimensions] float in [-1, 1]: the input of an implicit neural representation
    "graph",  # inputs (x [nodes, features], edge_index [2, edges]); targets per node
    "points",  # [points, dimensions] float, an unordered set
    "tree",  # inputs (token [nodes], left [nodes], right [nodes]) in post-order, children before parents, -1 no child
    "function",  # [channels, grid] float, a function sampled on a regular grid
    "state",  # [dimensions] float, the initial value of a flow; target kind "trajectory"
    "trajectory",  # [time, dimensions] float
    "pattern",  # [units] of ±1, to be recalled from a corrupted copy
    "classes",  # () int64, `classes` many; a target
]


@dataclass(frozen=True)
class Spec:
    """What one sample looks like.

    Args:
        kind: the meaning of the axes, see `Kind`.
        shape: the shape of one sample, without the sample axis. For a graph the shape of `x`, for a tree `(nodes,)`.
        classes: number of classes or size of the vocabulary, for integer data; None for real data.
    """

    kind: Kind
    shape: tuple[int, ...]
    classes: int | None = None

    def __str__(self) -> str:
        size = " × ".join(map(str, self.shape)) or "scalar"
        return f"{self.kind} [{size}]" + (f" of {self.classes} classes" if self.classes else "")


@dataclass(frozen=True)
class Split:
    """One part of a task's data.

    Args:
        inputs: what `forward` takes; see the module docstring for the leading axes.
        targets: what the loss compares with.
        mask: for `sampling="full"`, which leading entries of the outputs count, `[samples]` bool; None counts all.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True)
class TaskData:
    """The loaded data of a task.

    Args:
        train: what the models are trained on.
        test: what the reported metric is measured on (for an implicit representation, the same pixels).
        instance_labels: `[instance]` int64, the label of each instance for tasks with instances.
        instance_names: a name for every class of `instance_labels`.
    """

    train: Split
    test: Split
    instance_labels: Tensor | None = None
    instance_names: tuple[str, ...] = ()


Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Task:
    """A registered task.

    Args:
        name: unique, snake_case.
        summary: one sentence for the tables.
        source: where the data comes from and under which licence.
        inputs: the sample that goes in.
        targets: what comes out (`classes` for classification, else the shape of the real-valued output).
        loss: `(outputs, targets) -> scalar`, the mean over samples; must be vmappable.
        metric: name of the reported metric: it becomes the column `test_<metric>` of the model table.
        score: `(outputs, targets) -> scalar` computing that metric; must be vmappable.
        higher_is_better: direction of the metric.
        baseline: the trivial predictor in words ("always the most frequent class").
        load: `() -> TaskData`, deterministic; raises `UserError` when data outside the package is missing.
        baseline_score: `(TaskData) -> float`, the metric of that trivial predictor on the test split.
        sampling: see the module docstring.
        instances: number of instances, 0 when every model sees the same data.
        offline: False when the data may have to be downloaded; such tasks are not swept by default.
    """

    name: str
    summary: str
    source: str
    inputs: Spec
    targets: Spec
    loss: Loss
    metric: str
    score: Loss
    higher_is_better: bool
    baseline: str
    load: Callable[[], TaskData]
    baseline_score: Callable[[TaskData], float]
    sampling: Literal["minibatch", "full"] = "minibatch"
    instances: int = 0
    offline: bool = True
    notes: Mapping[str, str] = field(default_factory=dict)

    def data(self) -> TaskData:
        """The data, loaded once per process."""
        return _loaded(self.name)

    def example_inputs(self, batch: int = 2) -> tuple[Tensor, ...]:
        """A small batch of inputs for tracing, `[batch, ...]` (the whole input where sampling is full).

        They are real where the data is at hand; a zoo of other tasks can be learned from where the data is not.
        """
        if not self.offline and self.inputs.classes is None:
            return (torch.rand(batch, *self.inputs.shape, generator=torch.Generator().manual_seed(0)),)
        inputs = self.data().test.inputs
        return inputs if self.sampling == "full" and self.inputs.kind == "graph" else tuple(x[:batch] for x in inputs)

    def trivial_score(self) -> float:
        """The metric of the trivial baseline on the test split."""
        return float(self.baseline_score(self.data()))

    def beats_baseline(self, score: float, margin: float = 0.0) -> bool:
        """Whether `score` is better than the trivial baseline by at least `margin` of the metric's unit."""
        gain = score - self.trivial_score()
        return (gain if self.higher_is_better else -gain) > margin


_REGISTRY = Registry[Task]("task", "modelzoo.tasks", "metazoo tasks")


def register(task: Task) -> Task:
    """Add a task to the registry; raises `ValueError` for a name that is taken."""
    _REGISTRY.add(task.name, task)
    return task


@cache
def _loaded(name: str) -> TaskData:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _REGISTRY[name].load()


def tasks() -> dict[str, Task]:
    """Every registered task by name, sorted."""
    return _REGISTRY.all()


def task(name: str) -> Task:
    """The task of that name; raises `UserError` with the nearest name when there is none."""
    return _REGISTRY.find(name)
