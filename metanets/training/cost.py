"""What one training step costs: processor time, and the peak of the tensor memory it allocates.

Processor time, and not the clock's, so that a leaderboard that runs beside other work can be compared with itself.
"""

import time
import weakref
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metanets.training.config import Precision
from metanets.training.data import Batch
from metanets.training.module import Predictor

STEPS = 5


class Held(TorchDispatchMode):
    """Counts the bytes of tensors made while it is active, and the most of them that were there at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {tensor.untyped_storage()._cdata for tensor in self._tensors((args, kwargs))}
        found = func(*args, **(kwargs or {}))
        for tensor in self._tensors(found):
            storage = tensor.untyped_storage()
            if storage._cdata not in before and id(storage) not in self.storages:
                self._hold(storage)
        return found

    @staticmethod
    def _tensors(tree: Any) -> list[Tensor]:
        return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()

        def released(_: Any) -> None:
            del self.storages[key]
            self.now -= size

        self.storages[key] = weakref.ref(storage, released)
        self.now += size
        self.peak = max(self.peak, self.now)


@dataclass(frozen=True)
class StepCost:
    """Of one training step.

    Args:
        milliseconds: median processor time, over all threads, of zero_grad, forward, backward and optimizer.
        megabytes: the most that its tensors held at once, above what was there before the step.
    """

    milliseconds: float
    megabytes: float


def step_cost(predictor: Predictor, batch: Batch, precision: Precision = "32") -> StepCost:
    """The cost of a step on a batch; the predictor's weights are changed.

    Args:
        predictor: the network that is trained.
        batch: models and targets.
        precision: of the training.
    """
    predictor.train()
    batch = predictor.cast(batch)
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = predictor.raw(batch).learned.square().mean()
        loss.backward()
        optimizer.step()

    step()  # the optimizer's state, and what topologies compute once
    seconds = []
    for _ in range(STEPS):
        started = time.process_time()
        step()
        seconds.append(time.process_time() - started)
    with Held() as held:
        step()
    return StepCost(1e3 * median(seconds), held.peak / 2**20)
