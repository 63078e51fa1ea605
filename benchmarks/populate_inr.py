"""Populating with implicit neural representations: a block in lock-step against a plain torch loop, one model at a time.

    python benchmarks/populate_inr.py [--json] [--small]

Both sides start from the same seeds and take the same steps, so their trained weights must agree.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace

import torch
from harness import Case, run, small
from torch import Tensor
from torch.nn.functional import interpolate

from modelzoo.task import TaskData, register, task
from modelzoo.tasks.digits import DIGITS, image_regression, images
from modelzoo.training import Plan, PopulationConfig, train_population


def one_by_one(plan: Plan, models: int) -> dict[str, Tensor]:
    """How such zoos are usually made: a module, torch's default Adam, a loop over steps in a loop over models."""
    split, table = plan.task.data().train, plan.hyperparameters(range(models))
    trained: list[dict[str, Tensor]] = []
    for seed, instance, rate in zip(table["seed"], table["instance"], table["learning_rate"], strict=True):
        module = plan.family.build(plan.config, int(seed))
        optimizer = torch.optim.Adam(module.parameters(), lr=float(rate))
        for _ in range(plan.recipe.steps):
            optimizer.zero_grad()
            plan.task.loss(module(*split.inputs), split.targets[int(instance)]).backward()
            optimizer.step()
        trained.append({name: parameter.detach() for name, parameter in module.named_parameters()})
    return {name: torch.stack([model[name] for model in trained]) for name in trained[0]}


def lockstep(plan: Plan, models: int) -> dict[str, Tensor]:
    """The same in one block of the population trainer; it also measures the PSNR, before and after."""
    batch = train_population(plan.family, plan.config, plan.task, plan.hyperparameters(range(models)), plan.recipe)
    return {name: torch.as_tensor(values)[:, -1] for name, values in batch.parameters.items()}


def same_weights(ours: Mapping[str, Tensor], baseline: Mapping[str, Tensor]) -> bool:
    """Equal to 1e-5 of each model's norm on the baseline's models: float32 rounding, amplified by the steps of Adam."""
    count = len(next(iter(baseline.values())))
    mine, theirs = (torch.cat([side[name][:count].flatten(1) for name in baseline], 1) for side in (ours, baseline))
    return bool(((mine - theirs).norm(dim=1) <= 1e-5 * theirs.norm(dim=1)).all())


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
        same_weights, work=models, baseline_work=few, unit="models/s", ours_name="lock-step", baseline_name="one by one",
    )  # fmt: skip


LEARNING_RATE = 1e-4  # the published zoos' value; at larger ones two float32 runs part company within 300 steps

LARGE = register(replace(task("digits_inr"), name="digits_inr_28", load=enlarged))

if __name__ == "__main__":
    few = small()
    sizes = [("digits_inr", "8×8", 8, 2, 5)] if few else [("digits_inr", "8×8", m, 8, 300) for m in (64, 256)]
    sizes += [(LARGE.name, "28×28", *((4, 2, 3) if few else (64, 4, 300)))]
    sys.exit(run("populate_inr", [case(*size) for size in sizes], repeats=3))
