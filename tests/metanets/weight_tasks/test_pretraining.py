"""Pretraining tasks: what is hidden stays hidden, what can be known is learned, and scores are right by hand."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from metanets.embedding_contrast import info_nce
from metanets.metanet import metanet
from metanets.training import TrainingConfig
from metanets.training.data import PopulationBlock
from metanets.weight_task import Experiment, read_block, split_rows, weight_task
from metanets.weight_tasks.contrastive import retrieval, view
from metanets.weight_tasks.masked_weights import SHARE, Masked, Ridge, explained, hide, neighbourhoods
from modelzoo.errors import UserError
from modelzoo.store import Zoo

CONFIG = TrainingConfig.read(batch_size=16, fields={**metanet("graph_metanet").tiny, "dropout": 0.0})


@pytest.fixture(scope="module")
def block(metanet_zoo: Path) -> PopulationBlock:
    return read_block(Zoo.open(metanet_zoo), "mlp")


def improve(experiment: Experiment, rows: Tensor, steps: int, rate: float) -> None:
    """A few steps of Adam on some models."""
    optimizer = torch.optim.Adam(experiment.network.parameters(), rate)
    torch.manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        experiment.loss(rows).backward()
        optimizer.step()
    experiment.network.eval()


def test_neighbourhoods_of_the_weights_of_a_perceptron(block: PopulationBlock) -> None:
    layer, source, target, pair, _ = neighbourhoods(block.topology)
    for number in layer.unique():
        own = layer == number
        sizes = [int(found[own].unique().numel()) for found in (source, target, pair)]
        assert sizes[2] == own.sum(), "perceptrons have no parallel edges"
        assert own.sum() in (sizes[0] * sizes[1], sizes[1]), "every neuron to every neuron, or biases"


@torch.no_grad()
def test_what_is_hidden_does_not_reach_the_metanet(block: PopulationBlock) -> None:
    network = weight_task("masked_weights").experiment(block, CONFIG).network.eval()
    assert isinstance(network, Masked)
    values, hidden = block.values[:, :4], hide(block.values[:, :4].shape, torch.Generator().manual_seed(0))
    assert float(hidden.float().mean()) == pytest.approx(SHARE, abs=0.03)
    before = network(values, hidden)
    assert torch.equal(network(torch.where(hidden, 1e3, values), hidden), before)
    assert not torch.allclose(network(torch.where(hidden, values, values + 1), hidden), before)
    known = Ridge(block.topology, network.standard(values), hidden)
    assert torch.equal(known(torch.where(hidden, 1e3, values), hidden), known(values, hidden))
    assert not torch.allclose(known(values + 1, hidden), known(values, hidden))


def test_explained_variance_by_hand() -> None:
    standard, hidden = torch.tensor([[1.0, -2.0, 9.0]]), torch.tensor([[True, True, False]])
    for predicted, expected in ((standard, 1.0), (torch.zeros(1, 3), 0.0), (torch.tensor([[0.0, -2.0, 0.0]]), 0.8)):
        assert explained(predicted, standard, hidden)["explained variance"] == pytest.approx(expected)


def test_what_can_be_known_of_hidden_weights_is_learned(metanet_zoo: Path) -> None:
    """Planted: all weights of a model are one number. The others tell it; the position does not, nor another model's weights."""
    planted = read_block(Zoo.open(metanet_zoo), "mlp")
    numbers = torch.randn(planted.values.shape[1], generator=torch.Generator().manual_seed(0))
    planted.__dict__["values"] = numbers.expand_as(planted.values).contiguous()  # cached
    experiment = weight_task("masked_weights").experiment(planted, CONFIG)
    experiment.network.eval()
    before = experiment.measure()["explained variance"]
    improve(experiment, split_rows(planted, "train")[:16], 25, 2e-2)
    found = {name: metrics["explained variance"] for name, metrics in experiment.baselines().items()}
    assert found["ridge on weights around it"] > 0.95
    assert found["mean of the position"] < 0.2
    assert before < 0.2
    assert experiment.measure()["explained variance"] > 0.8
    planted.__dict__["values"] = torch.randn(planted.values.shape, generator=torch.Generator().manual_seed(1))
    control = weight_task("masked_weights").experiment(planted, CONFIG)
    assert control.baselines()["ridge on weights around it"]["explained variance"] < 0.05


def test_a_metanet_without_states_of_weights_is_refused(block: PopulationBlock) -> None:
    with pytest.raises(UserError, match="keeps no state of single weights"):
        weight_task("masked_weights").experiment(block, TrainingConfig.read(metanet="sane", fields=dict(metanet("sane").tiny)))  # fmt: skip


def test_retrieval_and_loss_by_hand() -> None:
    a = torch.eye(3)
    assert retrieval(a, a) == {"retrieval": 1.0, "reciprocal rank": 1.0}
    assert retrieval(a, a[[1, 0, 2]])["retrieval"] == pytest.approx(1 / 3)
    assert retrieval(torch.zeros(3, 2), torch.zeros(3, 2)) == {"retrieval": 0.0, "reciprocal rank": 0.5}
    assert float(info_nce(a, a)) == pytest.approx(float(torch.tensor([10.0, 0.0, 0.0]).log_softmax(0)[0].neg()), rel=1e-3)  # fmt: skip
    assert float(info_nce(a, a[[1, 0, 2]])) > 5


def test_views_differ_and_contrast_brings_them_together(block: PopulationBlock) -> None:
    train = split_rows(block, "train")
    draw = torch.Generator().manual_seed(0)
    first, second = (view(block, train[:4], draw) for _ in range(2))
    whole = block.models(train[:4])
    assert min(float((each.values != whole.values).float().mean()) for each in (first, second)) > 0.9
    assert not torch.equal(first.values, second.values)
    assert first.function is not None, "so that a metanet may probe"
    experiment = weight_task("contrastive").experiment(block, CONFIG)
    before = experiment.loss(train[:12]).item()
    improve(experiment, train[:12], 15, 1e-2)
    torch.manual_seed(0)
    assert experiment.loss(train[:12]).item() < 0.8 * before
    assert set(experiment.measure()) == set(experiment.baselines()["distance of weights"])
