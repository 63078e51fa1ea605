"""Populating with implicit neural representations: a block in lock-step against a plain torch loop, one model at a time.

    python benchmarks/populate_inr.py [--json] [--small]

Both sides start from the same seeds and take the same steps, so their trained weights must agree.
"""

import sys
from dataclasses import replace

from harness import Case, run, small
from populating import agree, lockstep, one_by_one
from torch.nn.functional import interpolate

from modelzoo.task import TaskData, register, task
from modelzoo.tasks.digits import DIGITS, image_regression, images
from modelzoo.training import Plan, PopulationConfig


def enlarged() -> TaskData:
    """The same digits on 28×28 pixels, the size of published zoos, by bicubic interpolation: nothing is downloaded."""
    small_images, labels = images()
    return image_regression(interpolate(small_images, (28, 28), mode="bicubic"), labels, DIGITS)


def case(data: str, pixels: str, models: int, few: int, steps: int) -> Case:
    """`models` in lock-step against `few` of them one by one."""
    plan = Plan.of(
        PopulationConfig.read(family="siren", task=data, models=models, steps=steps, learning_rate=LEARNING_RATE)
    )
    return Case(
        f"{models} SIRENs 2-32-32-1 on {pixels} digits, {steps} steps", lambda: lockstep(plan, models), lambda: one_by_one(plan, few),
        agree(1e-5), work=models, baseline_work=few, unit="models/s", ours_name="lock-step", baseline_name="one by one",
    )  # fmt: skip


LEARNING_RATE = 1e-4  # the published zoos' value; at larger ones two float32 runs part company within 300 steps

LARGE = register(replace(task("digits_inr"), name="digits_inr_28", load=enlarged))

if __name__ == "__main__":
    few = small()
    sizes = [("digits_inr", "8×8", 8, 2, 5)] if few else [("digits_inr", "8×8", m, 8, 300) for m in (64, 256)]
    sizes += [(LARGE.name, "28×28", *((4, 2, 3) if few else (64, 4, 300)))]
    sys.exit(run("populate_inr", [case(*size) for size in sizes], repeats=3))
