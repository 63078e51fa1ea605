"""Readers of a metanet: each learns from a loss of its own, and a mixture predicts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from metanets.metanet import Prediction, metanet
from metanets.readout import EQUAL, Mixture, Readers, ReadoutConfig
from metanets.training import TrainingConfig, train
from metanets.training.run import predictor_of
from tests.metanets.subjects import models, moved, spread

NOTHING: Any = None  # readouts without probes look at features alone


def readers(outputs: int = 2) -> Readers:
    torch.manual_seed(0)
    return Readers([[3], [5, 2]], ReadoutConfig(outputs=outputs, embedding=6, dropout=0)).double()


def features(count: int) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [[torch.randn(count, size, dtype=torch.float64, generator=generator) for size in sizes] for sizes in ([3], [5, 2])]  # fmt: skip


def learns(part: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in part.parameters())


def test_a_loss_of_one_reader_teaches_that_reader_alone_and_one_of_the_mixture_none() -> None:
    net = readers()
    found = net(features(7), NOTHING)
    assert found.members is not None
    assert found.members.shape == (7, 2, 2)
    assert found.embeddings.shape == (7, 2 * 6)
    alone = [part(own, NOTHING).embeddings for part, own in zip(net.parts, features(7), strict=True)]
    assert torch.equal(found.embeddings, torch.cat(alone, 1))
    found.members[:, 0].square().sum().backward(retain_graph=True)
    assert [learns(part) for part in net.parts] == [True, False]
    assert not found.outputs.requires_grad
    assert list(net.head.parameters()) == []
    net.zero_grad()
    found.learned.square().sum().backward()
    assert [learns(part) for part in net.parts] == [True, True]


def test_the_mixture_begins_at_the_mean_and_trusts_the_better_reader() -> None:
    """The first reader knows what is asked, the second guesses."""
    net, read = readers(1), features(300)
    before = net(read, NOTHING)
    torch.testing.assert_close(before.outputs, before.members.mean(1))
    wanted = before.members[:, 0].detach() + 0.01 * torch.randn(300, 1, generator=torch.Generator().manual_seed(0))
    net.head.choose(before.members, lambda outputs: (outputs - wanted).square().mean())
    assert net.head.shares[0] > 0.95


@given(st.integers(0, 2**31), st.integers(1, 4), st.sampled_from(["squares", "classes"]))
def test_chosen_shares_are_positive_one_in_all_and_the_best_there_are(seed: int, count: int, kind: str) -> None:
    """Losses are convex in the outputs: the one minimum is found."""
    generator = torch.Generator().manual_seed(seed)
    members = torch.randn(40, count, 3, dtype=torch.float64, generator=generator)
    wanted = torch.randn(40, 3, dtype=torch.float64, generator=generator)

    def loss(outputs: Tensor) -> Tensor:
        return F.mse_loss(outputs, wanted) if kind == "squares" else F.cross_entropy(outputs, wanted.argmax(1))

    mixture = Mixture(count, ReadoutConfig()).double()

    def objective(shares: Tensor) -> Tensor:
        return loss(mixture.mixed(members, shares)) + EQUAL / 40 * (shares - 1 / count).square().sum()

    outputs = mixture.choose(members, loss)
    assert torch.equal(outputs, mixture.mixed(members, mixture.shares))
    assert (mixture.shares >= 0).all()
    torch.testing.assert_close(mixture.shares.sum(), torch.ones((), dtype=torch.float64))
    others = [*torch.eye(count, dtype=torch.float64), *torch.rand(20, count, dtype=torch.float64, generator=generator)]
    for shares in [*others, torch.ones(count, dtype=torch.float64)]:
        assert objective(mixture.shares) <= objective(shares / shares.sum()) + 1e-6


@pytest.mark.parametrize(
    ("fields", "count"),
    [({}, 2), ({"probes": 3, "probe_shape": (1, 8, 8), "probe_outputs": 10}, 1), ({"statistics": False}, 2), ({"statistics": False, "spectra": False}, 1), ({"principal": 1}, 3)],
)  # fmt: skip
def test_statistics_have_a_reader_of_their_own_where_no_answers_are_read(fields: dict[str, Any], count: int) -> None:
    found = metanet("graph_metanet")
    net = found.build(found.configure({**found.tiny, "outputs": 3, **fields}), 0).double().eval()
    of = models("small_cnn")
    net.prepare([of])
    members = net(of).members
    assert (1 if members is None else members.shape[1]) == count


def test_predictions_of_batches_are_joined_in_order_with_their_members() -> None:
    parts = [Prediction(torch.full((n, 1), float(n)), torch.zeros(n, 4), torch.ones(n, 2, 1)) for n in (2, 3)]
    joined = Prediction.joined(parts)
    assert joined.outputs[:, 0].tolist() == [2, 2, 3, 3, 3]
    assert joined.members is not None
    assert joined.members.shape == (5, 2, 1)
    alone = Prediction.joined([part._replace(members=None) for part in parts])
    assert alone.members is None
    assert torch.equal(alone.learned[:, 0], alone.outputs)
    reversed_ = joined.each(lambda part: part.flip(0))
    assert reversed_.outputs[:, 0].tolist() == [3, 3, 3, 2, 2]


def test_training_teaches_every_reader(metanet_zoo: Path, tmp_path: Path) -> None:
    """Their outputs enter the mixture detached: without losses of their own they would stay as they began."""
    fields = {**metanet("graph_metanet").tiny, "probes": 0}
    config = TrainingConfig.read(target="test_accuracy", epochs=1, batch_size=16, fields=fields)
    done = train(metanet_zoo, ["small_cnn"], tmp_path / "run", config, progress=False)
    trained = predictor_of(done).metanet
    found = metanet("graph_metanet")
    fresh = found.build(found.configure(done.record.config), config.seed)
    assert len(trained.readout.parts) == 3
    for after, before in zip(trained.readout.parts, fresh.readout.parts, strict=True):
        assert not torch.equal(after.body[1].weight, before.body[1].weight)
    assert not torch.equal(trained.readout.head.shares, fresh.readout.head.shares)


def test_every_reader_is_invariant() -> None:
    """Outputs of each reader, not of their mixture alone, are those of the models whose neurons changed places."""
    found, of = metanet("graph_metanet"), models("siren")
    net = found.build(found.configure({**found.tiny, "outputs": 3}), 0).double().eval()
    net.calibrate([of])
    after = models("siren", moved("siren", "permutation", 1))
    with torch.no_grad():
        members, again = net(of).members, net(after).members
    assert members is not None
    assert again is not None
    assert not torch.equal(of.values, after.values)
    for own, other in zip(members.unbind(1), again.unbind(1), strict=True):
        assert (own - other).norm() <= 1e-10 * spread(own)
