"""One metanet on populations of different architectures: those that read any do, the others say so in one sentence."""

from pathlib import Path

import pytest

from metanets.metanet import metanet, metanets
from metanets.training import TrainingConfig, WeightData, train
from metanets.training.module import Predictor
from modelzoo.errors import UserError
from modelzoo.store import Zoo

POPULATIONS = ("small_cnn", "mlp")


@pytest.fixture(scope="module")
def data(metanet_zoo: Path) -> WeightData:
    """CNNs and perceptrons."""
    return WeightData(Zoo.open(metanet_zoo), POPULATIONS, "test_accuracy")


@pytest.mark.parametrize("name", ["nfn", "unf"])  # one line of code refuses all of them
def test_what_reads_one_architecture_refuses_two(name: str, metanet_zoo: Path, tmp_path: Path) -> None:
    config = TrainingConfig.read(metanet=name, target="test_accuracy", fields=dict(metanet(name).tiny))
    with pytest.raises(UserError, match="reads one architecture; name one population, or train graph_metanet"):
        train(metanet_zoo, POPULATIONS, tmp_path / "run", config, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name, each in metanets().items() if not each.one_architecture])
def test_what_reads_any_architecture_learns_from_both_at_once(name: str, data: WeightData) -> None:
    """Every parameter that one population reaches on its own has a gradient in the batch of both; models are told apart."""
    found, training = metanet(name), [models for models, _ in data.training_batch()]
    net = found.build(found.configure({**found.tiny, **found.adapt(training, found.tiny)}), 0).eval()
    net.calibrate(training)
    rows = [*range(4), *range(96, 100)]
    batch = data.collate(rows)
    assert [len(models) for models, _ in batch] == [4, 4]
    outputs = Predictor(net, "regression").raw(batch).outputs
    outputs.square().sum().backward()
    reached = {key for key, p in net.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    net.zero_grad()
    for each in batch:
        Predictor(net, "regression").raw([each]).outputs.square().sum().backward()
        alone = {key for key, p in net.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        assert alone
        assert alone <= reached
        net.zero_grad()
    assert all(part.std() > 0 for part in outputs.split(4))
