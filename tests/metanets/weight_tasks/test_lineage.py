"""Lineage: elements of the whole group leave functions and hide weights; invariant embeddings see through them."""

from pathlib import Path

import pytest
import torch

from metanets.batching import ModelFunction
from metanets.training import TrainingConfig
from metanets.training.data import PopulationBlock
from metanets.weight_task import checkpoint_values, read_block, weight_task
from metanets.weight_tasks.lineage import aucs, moved
from modelzoo.errors import UserError
from modelzoo.store import Zoo
from modelzoo.training import PopulationConfig, populate


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> PopulationBlock:
    """60 perceptrons with three checkpoints."""
    path = tmp_path_factory.mktemp("lineage") / "zoo"
    config = PopulationConfig.read(family="mlp", task="digits", models=60, tiny=True, steps=40, checkpoint_every=20)
    populate(path, config, "mlp", progress=False)
    return read_block(Zoo.open(path), "mlp")


def test_checkpoints_are_those_of_the_zoo(block: PopulationBlock) -> None:
    torch.testing.assert_close(checkpoint_values(block, -1), block.values)
    assert (checkpoint_values(block, -2) - block.values).abs().max() > 1e-3


def test_moved_models_are_the_same_functions_with_other_weights(block: PopulationBlock) -> None:
    rows = torch.arange(8)
    after = moved(block, block.values[:, rows], rows, torch.Generator().manual_seed(0))
    assert (after - block.values[:, rows]).norm() > 0.1 * after.norm()
    x = torch.rand(5, 1, 8, 8)

    def outputs(values: torch.Tensor) -> torch.Tensor:
        own = {name: tensor[rows] for name, tensor in block.tensors.items()}
        tensors = {**own, **block.structure.scatter(values.T)}
        return ModelFunction(block.population.template(), tensors, (1, 8, 8))(x)

    torch.testing.assert_close(outputs(after), outputs(block.values[:, rows]), rtol=1e-3, atol=1e-3)


def test_scores_in_order_have_area_one() -> None:
    row = aucs(torch.tensor([3.0, 2.0]), torch.tensor([3.0, 0.0]), torch.tensor([1.0, -1.0]))
    assert (row["auc same"], row["auc child"]) == (1.0, 0.75)


def test_an_invariant_embedding_recognises_what_distance_does_not(block: PopulationBlock) -> None:
    """The embedding under the whole group (ScaleGMN) finds the same model always, distance does not."""
    config = TrainingConfig.read(metanet="scalegmn", epochs=1, batch_size=16, fields={"width": 8, "layers": 2, "embedding": 8, "dropout": 0.0})  # fmt: skip
    experiment = weight_task("lineage").experiment(block, config)
    experiment.network.eval()
    assert experiment.measure()["auc same"] > 0.99
    assert experiment.baselines()["distance of weights"]["auc same"] < 0.95
    experiment.loss(torch.arange(8)).backward()
    assert sum(float(p.grad.abs().sum()) for p in experiment.network.parameters() if p.grad is not None) > 0


def test_first_and_last_alone_are_refused(metanet_zoo: Path) -> None:
    with pytest.raises(UserError, match="populate with --checkpoint-every"):
        weight_task("lineage").experiment(read_block(Zoo.open(metanet_zoo), "mlp"), TrainingConfig())
