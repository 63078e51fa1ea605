"""The regression on answers that is mixed with what learns: closed form, when there is one, and what it does to predictions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metanets.batching import Models
from metanets.metanet import Wanted, metanet
from metanets.probes import ProbeStart
from metanets.readout import Readers, ReadoutConfig
from metanets.ridge import PENALTIES, Ridge
from metanets.training import TrainingConfig, train
from metanets.training.data import WeightData
from metanets.training.module import Predictor, WeightTraining
from metanets.training.run import predictor_of
from modelzoo.errors import UserError
from modelzoo.store import Zoo
from tests.metanets.subjects import models, moved, spread

IMAGE, COUNT = (1, 8, 8), 3
CONFIG = ReadoutConfig(outputs=1, embedding=6, probes=COUNT, probe_shape=IMAGE, probe_outputs=10)


def cnns(stacked: dict[str, Tensor] | None = None, **function: Any) -> Models:
    """Tiny ones."""
    of = models("small_cnn", stacked)
    assert of.function is not None
    return replace(of, function=replace(of.function, **function))


def wanted(of: Models) -> Wanted:
    """Numbers, and their logarithms as outputs."""
    values = torch.rand(len(of), dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
    return Wanted(values, values.log())


def ridge(start: ProbeStart = "noise") -> Ridge:
    """Not fitted yet."""
    torch.manual_seed(0)
    return Ridge(COUNT, IMAGE, 10, start).double()


def test_it_is_the_regression_on_standardised_answers_whose_penalty_leaves_one_out_best() -> None:
    reader, of = ridge(), cnns()
    targets, outputs = wanted(of)
    reader.begin([of], [Wanted(targets, outputs)])
    answers = reader.features(of)
    features = (answers - answers.mean(0)) / answers.std(0, correction=0)

    def regression(penalty: float, rows: Tensor) -> tuple[Tensor, Tensor]:
        x, y = features[rows], targets[rows]
        centred = x - x.mean(0)
        kernel = centred @ centred.T + penalty * torch.eye(len(x), dtype=x.dtype)  # fewer models than answers
        weight = centred.T @ torch.linalg.solve(kernel, y - y.mean())
        return weight, y.mean() - x.mean(0) @ weight

    def left_out(penalty: float) -> float:
        rows, errors = torch.arange(len(of)), []
        for row in rows:
            weight, constant = regression(penalty, rows[rows != row])
            errors.append((features[row] @ weight + constant - targets[row]).square())
        return float(torch.stack(errors).sum())

    weight, constant = regression(min(PENALTIES.tolist(), key=left_out), torch.arange(len(of)))
    expected = features @ weight + constant
    by_value = targets.argsort()
    knots = targets[by_value].numpy(), outputs[by_value].numpy()
    torch.testing.assert_close(reader(of)[:, 0], torch.from_numpy(np.interp(expected.numpy(), *knots)))


def test_it_reads_data_where_probes_begin_there_and_says_so_where_there_is_none() -> None:
    data = torch.rand(50, *IMAGE, dtype=torch.float64)
    reader, of = ridge("data"), cnns(examples=lambda: data)
    reader.begin([of], [wanted(of)])
    assert torch.equal(reader.inputs, data[[0, 24, 49]])
    with pytest.raises(UserError, match="take probe_start=noise"):
        ridge("data").begin([cnns()], [wanted(of)])


def test_without_numbers_to_predict_or_to_read_there_is_none() -> None:
    of, net = cnns(), Readers([[4]], CONFIG).double().eval()
    features = [[torch.zeros(len(of), 4, dtype=torch.float64)]]
    assert net(features, of).members is None
    (reader,) = net.head.regressions
    reader.begin([of], None)
    assert of.function is not None
    broken = cnns(tensors={name: torch.full_like(t, torch.nan) for name, t in of.function.tensors.items()})
    reader.begin([of, broken], [wanted(of), wanted(of)])
    assert net(features, of).members is None
    reader.begin([of], [wanted(of)])
    found = net(features, of)
    assert found.members is not None
    torch.testing.assert_close(found.members[:, 1], reader(of))
    torch.testing.assert_close(found.outputs, found.members.mean(1))
    assert net.train()(features, of).members is None, "what does not learn is no part of training"


def test_it_is_invariant() -> None:
    reader, of = ridge(), cnns()
    reader.begin([of], [wanted(of)])
    after = cnns(moved("small_cnn", "permutation", 1))
    before, again = reader(of), reader(after)
    assert not torch.equal(of.values, after.values)
    assert (before - again).norm() <= 1e-10 * spread(before)


def test_a_regression_is_prepared_with_ranks_of_its_targets_and_classes_without(metanet_zoo: Path) -> None:
    """Before any step, it explains most of how training models rank."""
    data = WeightData(Zoo.open(metanet_zoo), ["small_cnn"], "test_accuracy")
    batch = data.training_batch()
    training = [models for models, _ in batch]
    found = metanet("graph_metanet")
    fields = {**found.tiny, "probes": 6}
    config = found.configure({**fields, **found.adapt(training, fields)})
    for kind, fitted in (("regression", True), ("classification", False)):
        predictor = Predictor(found.build(config, 0), kind).eval()
        predictor.prepare(batch, data.targets[data.rows("train")])
        (reader,) = predictor.metanet.readout.head.regressions
        assert bool(reader.fitted) is fitted
        if fitted:
            ranks = torch.cat([predictor.ranks(targets) for _, targets in batch])
            said = torch.cat([reader(models)[:, 0] for models in training])
            assert torch.corrcoef(torch.stack([ranks.float(), said]))[0, 1] > 0.9


def test_training_mixes_it_in_by_what_the_validation_models_say(metanet_zoo: Path, tmp_path: Path) -> None:
    fields = {**metanet("graph_metanet").tiny, "probes": 6}
    config = TrainingConfig.read(target="test_accuracy", epochs=1, batch_size=16, fields=fields)
    done = train(metanet_zoo, ["small_cnn"], tmp_path / "run", config, progress=False)
    predictor = predictor_of(done).eval()
    mixture, data = predictor.metanet.readout.head, WeightData(Zoo.open(metanet_zoo), ["small_cnn"], "test_accuracy")
    shares, batch = mixture.shares.clone(), data.collate(data.rows("validation"))
    members, targets = predictor.raw(batch).members, torch.cat([targets for _, targets in batch])
    assert members is not None
    assert shares[1] > 0.5, "after one epoch the regression knows more"
    WeightTraining(predictor, config, "regression", 1).choose_shares(members, targets)
    torch.testing.assert_close(mixture.shares, shares)
