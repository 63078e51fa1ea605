"""Populating with LSTMs: a block in lock-step against a plain torch loop, one model at a time.

    python benchmarks/populate_lstm.py [--json] [--small]

The plain loop trains the family's module: what a user of the zoo has, and what can be traced to a program. The other
cases train `torch.nn.LSTM` in its place, whose recurrence is one call into torch. Both sides start from the same seeds
and see the same samples, so their trained weights must agree. Ours also measures the test metric, before and after.
"""

import sys
from dataclasses import replace

import torch
from harness import Case, run, small
from populating import agree, lockstep, one_by_one
from torch import Tensor, nn

from modelzoo.task import Spec, TaskData, register, task
from modelzoo.tasks.adding import sequences
from modelzoo.training import Plan, PopulationConfig

LENGTH, HIDDEN = 64, 32


def load() -> TaskData:
    """As the registered task, with longer sequences."""
    draw = torch.Generator().manual_seed(0)
    return TaskData(sequences(1024, LENGTH, draw), sequences(64, LENGTH, draw))


LONG = register(replace(task("adding"), name="adding_64", load=load, inputs=Spec("sequence", (LENGTH, 2))))


class Plain(nn.Module):
    """What one writes: torch's LSTM, and a linear layer on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(2, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x)[0][:, -1])


def case(models: int, few: int, steps: int, batch: int, plain: bool) -> Case:
    """`models` in lock-step against `few` of them one by one, as `torch.nn.LSTM` or as the family's module."""
    plan = Plan.of(
        PopulationConfig.read(family="lstm", task=LONG.name, models=models, steps=steps, batch_size=batch, learning_rate=1e-4)
    )  # fmt: skip

    def build(seed: int) -> nn.Module:
        module, own = Plain(), plan.family.build(plan.config, seed)
        values = dict(
            zip(module.state_dict(), own.state_dict().values(), strict=True)
        )  # the same tensors, in the same order
        module.load_state_dict(values)
        return module

    return Case(
        f"{models} LSTMs, h {HIDDEN}, T {LENGTH}, batches of {batch}, {steps} steps, against {'torch.nn.LSTM' if plain else 'the module'}",
        lambda: lockstep(plan, models), lambda: one_by_one(plan, few, build if plain else None), agree(1e-4),
        work=models, baseline_work=few, unit="models/s", ours_name="lock-step", baseline_name="one by one",
    )  # fmt: skip


if __name__ == "__main__":
    sizes = [(2, 2, 2, 8)] if small() else [(64, 4, 20, batch) for batch in (16, 64)]
    sys.exit(run("populate_lstm", [case(*size, plain) for size in sizes for plain in (True, False)], repeats=3))
