"""Populating with small convolutional networks: a block in lock-step against a plain torch loop, one model at a time.

    python benchmarks/populate_cnn.py [--json] [--small]

Both sides start from the same seeds and see the same samples, so their trained weights must agree.
"""

import sys

from harness import Case, run, small
from populating import agree, lockstep, one_by_one

from modelzoo.training import Plan, PopulationConfig


def case(variant: str, models: int, few: int, steps: int) -> Case:
    """`models` in lock-step against `few` of them one by one."""
    plan = Plan.of(PopulationConfig.read(family=variant, models=models, steps=steps, learning_rate=LEARNING_RATE))
    stride = plan.config.model_dump()["stride"]
    return Case(
        f"{models} CNNs of 4,970 parameters, stride {stride}, 8×8 digits, batches of 64, {steps} steps", lambda: lockstep(plan, models),
        lambda: one_by_one(plan, few), agree(1e-4), work=models, baseline_work=few, unit="models/s", ours_name="lock-step",
        baseline_name="one by one",
    )  # fmt: skip


LEARNING_RATE = 1e-4  # at larger ones two float32 runs part company

if __name__ == "__main__":
    sizes = [("small_cnn", 16, 2, 2)] if small() else [("small_cnn", 64, 4, 60), ("small_cnn.dense", 16, 2, 10)]
    sys.exit(run("populate_cnn", [case(*size) for size in sizes], repeats=3))
