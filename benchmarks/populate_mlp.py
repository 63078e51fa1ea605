"""Populating with classifiers of digits: a block in one operation against a plain torch loop, one model at a time.

    python benchmarks/populate_mlp.py [--json] [--small]

Both sides start from the same seeds and see the same samples, so their trained weights must agree.
"""

import sys

from harness import Case, run, small
from populating import agree, lockstep, one_by_one

from modelzoo.training import Plan, PopulationConfig


def case(models: int, few: int, steps: int) -> Case:
    """`models` in one block against `few` of them one by one."""
    plan = Plan.of(PopulationConfig.read(family="mlp", models=models, steps=steps, learning_rate=LEARNING_RATE))
    return Case(
        f"{models} classifiers 64-32-32-10 of 8×8 digits, batches of {plan.recipe.batch_size}, {steps} steps",
        lambda: lockstep(plan, models), lambda: one_by_one(plan, few), agree(1e-4), work=models, baseline_work=few,
        unit="models/s", ours_name="in one", baseline_name="one by one",
    )  # fmt: skip


LEARNING_RATE = 1e-4  # at larger ones two float32 runs part company

if __name__ == "__main__":
    sys.exit(run("populate_mlp", [case(*((8, 2, 5) if small() else (256, 4, 300)))], repeats=3))
