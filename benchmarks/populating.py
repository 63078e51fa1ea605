"""Both sides of the benchmarks of populating, and when they agree."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from modelzoo.training import Plan, train_population
from modelzoo.training.sampling import sample_rows


def one_by_one(plan: Plan, models: int, build: Callable[[int], nn.Module] | None = None) -> dict[str, Tensor]:
    """How such zoos are usually made: a module, torch's default Adam, a loop over steps in a loop over models.

    Args:
        plan: family, task and recipe.
        models: how many of its first models.
        build: `seed -> module`, the module that is trained; None for the family's own.
    """
    data, table = plan.task.data(), plan.hyperparameters(range(models))
    inputs, targets = data.train.inputs[0], data.train.targets
    trained: list[dict[str, Tensor]] = []
    for model, row in enumerate(table.itertuples()):
        module = build(row.seed) if build else plan.family.build(plan.config, row.seed)
        optimizer = torch.optim.Adam(module.parameters(), lr=row.learning_rate)
        rows = sample_rows(plan.task, data, table.iloc[model : model + 1], plan.recipe.batch_size)
        for _ in range(plan.recipe.steps):
            own = next(rows)
            x, y = (inputs, targets[row.instance]) if own is None else (inputs[own[0]], targets[own[0]])
            optimizer.zero_grad()
            plan.task.loss(module(x), y).backward()
            if plan.recipe.gradient_clip:
                nn.utils.clip_grad_norm_(module.parameters(), plan.recipe.gradient_clip)
            optimizer.step()
        trained.append({name: parameter.detach() for name, parameter in module.named_parameters()})
    return {name: torch.stack([model[name] for model in trained]) for name in trained[0]}


def lockstep(plan: Plan, models: int) -> dict[str, Tensor]:
    """The same in one block of the population trainer; it also measures the test metric, before and after."""
    batch = train_population(plan.family, plan.config, plan.task, plan.hyperparameters(range(models)), plan.recipe)
    return {name: torch.as_tensor(values)[:, -1] for name, values in batch.parameters.items()}


def agree(tolerance: float) -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool]:
    """Whether the baseline's models have equal weights to `tolerance` of each one's norm: rounding, amplified by Adam."""

    def check(ours: Mapping[str, Tensor], baseline: Mapping[str, Tensor]) -> bool:
        count = len(next(iter(baseline.values())))
        pairs = zip(ours.values(), baseline.values(), strict=True)
        mine, theirs = (torch.cat([part[:count].flatten(1) for part in side], 1) for side in zip(*pairs, strict=True))
        return bool(((mine - theirs).norm(dim=1) <= tolerance * theirs.norm(dim=1)).all())

    return check
