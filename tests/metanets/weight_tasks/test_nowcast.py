"""Forecasts of the last checkpoint."""

from pathlib import Path

import pytest
import torch

from metanets.training import TrainingConfig
from metanets.weight_task import checkpoint_values, read_block, split_rows, weight_task
from metanets.weight_tasks.nowcast import relative_errors
from metanets.weight_training import train_experiment
from modelzoo.errors import UserError
from modelzoo.store import Zoo
from modelzoo.training import PopulationConfig, populate


def test_rows_are_the_stored_checkpoints_and_training_beats_the_straight_line(tmp_path: Path) -> None:
    config = PopulationConfig.read(family="mlp", task="digits", models=60, tiny=True, steps=60, checkpoint_every=20)
    populate(tmp_path / "zoo", config, "mlp", progress=False)
    block = read_block(Zoo.open(tmp_path / "zoo"), "mlp")
    training = TrainingConfig.read(metanet="unf", epochs=5, batch_size=16, fields={"width": 4, "layers": 2})
    experiment = weight_task("nowcast").experiment(block, training)
    rows = {name: metrics["relative error"] for name, metrics in experiment.baselines().items()}
    first, before, after = (checkpoint_values(block, k)[:, split_rows(block, "test")] for k in (-3, -2, -1))
    line = ((2 * before - first - after).square().sum(0) / (before - after).square().sum(0)).mean()
    assert rows["no change"] == pytest.approx(1)
    assert rows["straight line"] == pytest.approx(float(line), rel=1e-5)
    train_experiment(experiment, training, tmp_path / "run")
    assert experiment.measure()["relative error"] < rows["straight line"]


def test_errors_by_hand() -> None:
    before, after = torch.zeros(2, 1), torch.tensor([[1.0], [0.0]])
    assert relative_errors(torch.tensor([[0.5], [0.5]]), before, after).tolist() == [0.5]


def test_two_checkpoints_are_refused(metanet_zoo: Path) -> None:
    with pytest.raises(UserError, match="keeps 2 checkpoints, a forecast needs 3"):
        weight_task("nowcast").experiment(read_block(Zoo.open(metanet_zoo), "mlp"), TrainingConfig())
