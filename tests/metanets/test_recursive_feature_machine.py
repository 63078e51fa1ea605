"""The kernel regression on statistics: closed forms, what it learns to look at, and what it does to predictions."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metanets.batching import Models
from metanets.metanet import Wanted, metanet
from metanets.readout import Readers, ReadoutConfig
from metanets.recursive_feature_machine import BANDWIDTHS, PENALTIES, RecursiveFeatureMachine, solved
from metanets.training import TrainingConfig, train
from metanets.training.data import WeightData
from metanets.training.run import predictor_of
from modelzoo.store import Zoo
from tests.metanets.subjects import models, moved, spread


def points(seed: int, count: int, features: int) -> Tensor:
    return torch.randn(count, features, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def kernel(a: Tensor, b: Tensor, width: float) -> Tensor:
    return (-(a[:, None] - b).square().sum(2).sqrt() / width).exp()


def machine(of: Models, values: Tensor | None = None) -> RecursiveFeatureMachine:
    """Fitted to models and numbers, or to arbitrary ones."""
    reader = RecursiveFeatureMachine().double()
    values = points(1, len(of), 1)[:, 0] if values is None else values
    reader.begin([of], [Wanted(values, values.tanh())])
    return reader


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3))
def test_bandwidth_and_penalty_are_those_that_predict_every_model_best_from_the_others(seed: int, outputs: int) -> None:
    x, values = points(seed, 9, 3), points(seed + 1, 9, outputs)
    size = float((x[:, None] - x).square().sum(2).mean().sqrt())

    def regression(width: float, penalty: float, rows: Tensor) -> Tensor:
        return torch.linalg.solve(kernel(x[rows], x[rows], width) + penalty * torch.eye(len(rows)), values[rows])

    def left_out(width: float, penalty: float) -> float:
        errors = []
        for row in range(len(x)):
            rows = torch.tensor([other for other in range(len(x)) if other != row])
            errors.append(kernel(x[[row]], x[rows], width) @ regression(width, penalty, rows) - values[row])
        return float(torch.stack(errors).square().mean())

    choices = [(width * size, penalty) for width in BANDWIDTHS for penalty in PENALTIES]
    errors = [left_out(*choice) for choice in choices]
    found, width, _ = solved(x, values)
    every = torch.arange(len(x))
    fitting = [
        error
        for (own, penalty), error in zip(choices, errors, strict=True)
        if torch.isclose(torch.tensor(own, dtype=torch.float64), width)
        and torch.allclose(regression(own, penalty, every), found, rtol=1e-6, atol=1e-9)
    ]
    assert fitting, "the regression is one of those"
    assert min(fitting) <= min(errors) * (1 + 1e-6)


def test_features_are_weighted_by_the_mean_square_of_derivatives() -> None:
    x, values = points(0, 12, 4), points(1, 12, 2)
    coefficients, width, found = solved(x, values)
    at = (x + 1e-7).requires_grad_()  # beside the training models, where the kernel has no derivative
    expected = torch.zeros(4, dtype=torch.float64)
    for own in coefficients.unbind(1):
        others = kernel(at, x, float(width)) * (1 - torch.eye(12))  # the kernel of a model with itself: no derivative
        (gradient,) = torch.autograd.grad((others @ own).sum(), at)
        expected += gradient.square().mean(0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


def test_it_learns_which_features_matter_and_predicts_better_for_it() -> None:
    x, unseen = points(0, 300, 20), points(1, 300, 20)
    reader = RecursiveFeatureMachine().double()

    def wanted(x: Tensor) -> Tensor:
        return (2 * x[:, 0]).sin() + x[:, 1]

    reader.fit(x, wanted(x))
    assert reader.relevance.topk(2).indices.sort().values.tolist() == [0, 1]
    assert reader.relevance[2:].max() < 0.1 * reader.relevance[:2].min()
    error = (reader.values(unseen) - wanted(unseen)).square().mean() / wanted(unseen).var()
    plain, width, _ = solved(x, (wanted(x) - wanted(x).mean())[:, None])
    without = kernel(unseen, x, float(width)) @ plain[:, 0] + wanted(x).mean() - wanted(unseen)
    assert error < 0.25 * without.square().mean() / wanted(unseen).var()


@pytest.mark.parametrize("family", ["mlp", "siren", "small_cnn", "lstm", "transformer", "resnet"])
def test_it_is_invariant_also_of_models_that_it_was_fitted_to(family: str) -> None:
    of = models(family)
    reader, after = machine(of), models(family, moved(family, "permutation", 1))
    assert reader.fitted
    before, again = reader(of), reader(after)
    assert not torch.equal(of.values, after.values)
    assert (before - again).norm() <= 1e-10 * spread(before)
    broken = Models(of.topology, of.values.flip(0))  # weights at other places: another model
    assert (reader(broken) - before).norm() > 1e-2 * spread(before)


def test_models_of_other_architectures_are_read_where_they_have_the_same_cells() -> None:
    reader = machine(models("small_cnn"))
    features, others = reader.features(models("small_cnn")), reader.features(models("resnet"))
    assert features.shape == others.shape == (4, len(reader.relevance))
    assert (features.std(0) > 0).all()
    assert (others == 0).any(0).any(), "cells that they do not have"
    assert reader(models("resnet")).isfinite().all()


def test_a_fitted_one_is_kept_with_its_models() -> None:
    of = models("small_cnn")
    reader, fresh = machine(of), RecursiveFeatureMachine().double()
    fresh.load_state_dict(reader.state_dict())
    assert torch.equal(fresh(of), reader(of))


def test_without_numbers_to_predict_there_is_none_and_the_others_share() -> None:
    of, net = models("small_cnn"), Readers([[4], [3]], ReadoutConfig(embedding=6), feature_machine=True).double().eval()
    read = [[torch.ones(len(of), size, dtype=torch.float64)] for size in (4, 3)]
    (reader,) = net.head.regressions
    reader.begin([of], None)
    found = net(read, of)
    assert found.members is not None
    torch.testing.assert_close(found.outputs, found.members.mean(1))
    assert found.members.shape[1] == 2
    net.head.choose(found.members, lambda outputs: outputs.square().mean())
    torch.testing.assert_close(net.head.shares[:2].sum(), torch.ones((), dtype=torch.float64))
    values = points(1, len(of), 1)[:, 0]
    reader.begin([of], [Wanted(values, values)])
    members = net(read, of).members
    assert members is not None
    torch.testing.assert_close(members[:, 2], reader(of))
    assert net.train()(read, of).members.shape[1] == 2, "what does not learn is no part of training"


def test_training_mixes_it_in_and_a_kept_run_predicts_with_it(metanet_zoo: Path, tmp_path: Path) -> None:
    """Of two architectures, with averaged weights, which average buffers as well."""
    fields = {**metanet("graph_metanet").tiny, "probes": 0}
    config = TrainingConfig.read(target="test_accuracy", epochs=2, batch_size=16, average=0.9, fields=fields)
    done = train(metanet_zoo, ["small_cnn", "mlp"], tmp_path / "run", config, progress=False)
    predictor = predictor_of(done).eval()
    mixture = predictor.metanet.readout.head
    assert len(mixture.shares) == 4
    torch.testing.assert_close(mixture.shares.sum(), torch.ones(()))
    (reader,) = mixture.regressions
    assert reader.fitted
    data = WeightData(Zoo.open(metanet_zoo), ["small_cnn", "mlp"], "test_accuracy")
    training = data.training_batch()
    fresh = RecursiveFeatureMachine()
    fresh.begin([of for of, _ in training], [Wanted(own.float(), predictor.ranks(own.float())) for _, own in training])
    torch.testing.assert_close(reader.support, fresh.support)
    torch.testing.assert_close(reader.coefficients, fresh.coefficients)
    targets = torch.cat([own for _, own in training]).float()
    said = torch.cat([reader(of)[:, 0] for of, _ in training])
    assert torch.corrcoef(torch.stack([predictor.ranks(targets), said]))[0, 1] > 0.8
