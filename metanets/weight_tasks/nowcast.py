"""The last checkpoint from the two before: x̂_2 = x_1 + (ρ + f_c y_e(x_1)) ⊙ (x_1 − x_0).

ρ is the ratio of the steps, so an untrained network is near the straight line; y are a metanet's outputs of edges at x_1, f_c a
learned factor of kind and depth. Learning to Boost Training by Periodic Nowcasting Near Future Weights (Jang et al., 2023).
"""

import torch
from torch import Tensor

from metanets.batching import Models
from metanets.training.config import TrainingConfig
from metanets.training.data import PopulationBlock
from metanets.weight_task import (
    Experiment,
    Metrics,
    WeightTask,
    build,
    checkpoint_values,
    items_of,
    mean_and_error,
    register,
    split_rows,
)
from metanets.weight_update import WeightUpdate
from modelzoo.errors import UserError
from modelzoo.family import Paper


def relative_errors(predicted: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """‖x̂_2 − x_2‖² / ‖x_1 − x_2‖² of every model, `[M]`; 1 for a forecast of no change."""
    return (predicted - after).square().sum(0) / (before - after).square().sum(0).clamp_min(1e-20)


def prepare(block: PopulationBlock, config: TrainingConfig) -> Experiment:
    """Mean relative squared error on the test split: no change, the straight line, the best share of it, and a metanet."""
    steps = block.population.info.checkpoint_steps
    if len(steps) < 3:
        raise UserError(f"population {block.population.name!r} keeps {len(steps)} checkpoints, a forecast needs 3; populate with --checkpoint-every.")  # fmt: skip
    first, before, after = (checkpoint_values(block, k) for k in (-3, -2, -1))
    speed, ratio = before - first, (steps[-1] - steps[-2]) / (steps[-2] - steps[-3])
    train, test = split_rows(block, "train"), split_rows(block, "test")
    training = Models(block.topology, before[:, train])
    network = WeightUpdate(build(config, training), [training])

    def forecast(rows: Tensor) -> Tensor:
        gain = network.factors(block.topology) * network.outputs(Models(block.topology, before[:, rows]))
        return before[:, rows] + (ratio + gain) * speed[:, rows]

    def scored(predicted: Tensor) -> Metrics:
        return mean_and_error("relative error", relative_errors(predicted, before[:, test], after[:, test]))

    def loss(rows: Tensor) -> Tensor:
        return relative_errors(forecast(rows), before[:, rows], after[:, rows]).mean()

    @torch.no_grad()
    def measure() -> Metrics:
        return scored(forecast(test))

    def baselines() -> dict[str, Metrics]:
        # the share of the straight line with the least mean relative error on the train split
        weight = (after - before)[:, train].square().sum(0).clamp_min(1e-20)
        along = (speed * (after - before))[:, train].sum(0) / weight
        share = float(along.sum() / (speed[:, train].square().sum(0) / weight).sum())
        return {
            "no change": scored(before[:, test]),
            "straight line": scored((before + ratio * speed)[:, test]),
            f"straight line × {share / ratio:.2f}": scored((before + share * speed)[:, test]),
        }

    return Experiment(network, loss, items_of(block), measure, baselines)


TASK = register(
    WeightTask(
        name="nowcast",
        prepare=prepare,
        summary="Forecast the last checkpoint from the two before.",
        metric="relative error",
        higher_is_better=False,
        paper=Paper("Learning to Boost Training by Periodic Nowcasting Near Future Weights", "Jang et al.", 2023),
    ),
    __name__,
)
