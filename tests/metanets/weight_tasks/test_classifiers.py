"""Tasks on classifiers of digits: alignment, adaptation, sampling and a learned optimizer, each against a control."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from metanets import adaptation
from metanets.adaptation import Classifiers
from metanets.alignment import aligned, assigned, places, reordered
from metanets.batching import ModelFunction
from metanets.training import TrainingConfig
from metanets.training.data import PopulationBlock
from metanets.weight_board import Bench, board, run
from metanets.weight_task import Experiment, checkpoint_values, read_block, split_rows, weight_task
from metanets.weight_tasks import learned_optimizer
from metanets.weight_tasks.adapt_rotated import turn
from metanets.weight_tasks.alignment import sinkhorn
from metanets.weight_training import train_experiment
from modelzoo.errors import UserError
from modelzoo.store import Zoo
from modelzoo.training import PopulationConfig, populate
from tests.conftest import Command

TINY = {"width": 4, "layers": 2, "dropout": 0.0}


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> PopulationBlock:
    """60 small perceptrons that read digits."""
    path = tmp_path_factory.mktemp("classifiers") / "zoo"
    config = PopulationConfig.read(family="mlp", task="digits", models=60, tiny=True, steps=100, learning_rate=1e-2)
    populate(path, config, "mlp", progress=False)
    return read_block(Zoo.open(path), "mlp")


def experiment(name: str, block: PopulationBlock, metanet: str = "unf", **fields: object) -> Experiment:
    config = TrainingConfig.read(metanet=metanet, batch_size=16, fields={**TINY, **fields})
    return weight_task(name).experiment(block, config)


def moved(block: PopulationBlock) -> tuple[torch.Tensor, torch.Tensor]:
    """Models, and the same with their neurons in random orders."""
    generator, own = torch.Generator().manual_seed(0), block.values[:, :8]
    sizes = places(block.topology).layout.sizes
    orders = {a: F.one_hot(torch.rand(8, n, generator=generator).argsort(1), n).float() for a, n in sizes.items()}
    return own, reordered(block.topology, orders, own)


def test_reordered_models_are_the_same_functions_and_weight_matching_undoes_it(block: PopulationBlock) -> None:
    own, other = moved(block)
    assert (own - other).abs().max() > 0.1
    function = block.function
    assert function is not None
    x = torch.rand(5, 1, 8, 8)
    shown = [ModelFunction(function.template, dict(block.structure.scatter(v.T)), function.shape)(x) for v in (own, other)]  # fmt: skip
    torch.testing.assert_close(*shown)
    assert (aligned(block.topology, own, other) == own).all()


def test_sinkhorn_and_assignment_by_hand() -> None:
    scores = torch.tensor([[[5.0, 4.0], [4.0, 0.0]]])
    assert assigned(scores).tolist() == [[[0, 1], [1, 0]]]
    soft = sinkhorn(scores).exp()
    torch.testing.assert_close(soft.sum(1), torch.ones(1, 2), atol=1e-3, rtol=0)
    torch.testing.assert_close(soft.sum(2), torch.ones(1, 2))


def test_alignment_is_learned_and_an_exact_copy_is_found_without(block: PopulationBlock, tmp_path: Path) -> None:
    """Equivariant vectors of neurons are equal for equal neurons, trained or not; trained, planted orders under noise come back."""
    subject = experiment("alignment", block)
    matcher = subject.network
    own, other = (block.models(torch.arange(8)).__class__(block.topology, v) for v in moved(block))
    back = reordered(block.topology, {a: assigned(s) for a, s in matcher(own, other).items()}, other.values)
    assert (back == own.values).all()
    before = subject.measure()
    train_experiment(subject, TrainingConfig.read(metanet="unf", batch_size=16, epochs=5, learning_rate=1e-2), tmp_path)
    after, naive = subject.measure(), subject.baselines()["as they are"]
    assert after["planted weights back"] > before["planted weights back"]
    assert after["barrier"] < naive["barrier"]


def test_alignment_refuses_metanets_without_neurons(block: PopulationBlock) -> None:
    with pytest.raises(UserError, match="keeps no states of neurons by factor"):
        weight_task("alignment").experiment(block, TrainingConfig.read(metanet="flat_mlp"))


def test_weight_tasks_have_one_precision(block: PopulationBlock, tmp_path: Path) -> None:
    for asked in ({"precision": "64"}, {"data": "mapped"}):
        with pytest.raises(UserError, match="leave data and precision out"):
            train_experiment(
                experiment("alignment", block), TrainingConfig.read(metanet="unf", **asked), tmp_path / "run"
            )
    assert not (tmp_path / "run").exists()


def test_adaptation_learns_and_tuning_descends(block: PopulationBlock, tmp_path: Path) -> None:
    subject = experiment("adapt_rotated", block)
    models, rows = Classifiers(block, turn), split_rows(block, "test")
    plain = models.on_task.losses(models.tensors(rows), models.train).mean()
    assert models.on_task.losses(models.tuned(rows, 5, 0.01), models.train).mean() < plain
    before = float(subject.loss(rows).detach())
    train_experiment(subject, TrainingConfig.read(metanet="unf", batch_size=16, epochs=6, learning_rate=1e-2), tmp_path)
    with torch.no_grad():
        assert float(subject.loss(rows)) < 0.9 * min(before, float(plain))


def test_what_is_no_function_of_images_is_refused(block: PopulationBlock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(block.__dict__, "_evaluable", False)
    with pytest.raises(UserError, match="does not classify images"):
        Classifiers(block, turn)


def test_sampled_models_beat_random_weights_and_are_citizens_of_the_zoo(
    block: PopulationBlock, metazoo: Callable[..., Command], tmp_path: Path
) -> None:
    zoo = block.population.zoo.path
    given = ("--metanet", "unf,width=4,layers=2,dropout=0", "--epochs", 6, "--batch-size", 16, "--learning-rate", 1e-2)
    command = ("weight-task", "sampling", zoo, "mlp", *given, "--out", tmp_path, "--json")
    code, out, error = metazoo(*command, "--name", "made", "--models", 20)
    assert code == 0, error
    scores = {row["method"]: row["mean"] for row in json.loads(out) if row["metric"] == "accuracy"}
    assert scores["unf,width=4,layers=2,dropout=0"] > scores["kernel density of principal components"]
    made = Zoo.open(zoo)["made"]
    assert len(made) == 20
    assert made.info.parent == "weight task sampling on mlp"
    x, y = (s for s in (made.task.data().test.inputs[0], made.task.data().test.targets))
    right = float((made.module(3)(x).argmax(1) == y).float().mean())
    assert right == pytest.approx(made.table["test_accuracy"].iloc[3], abs=1e-6)
    code, out, error = metazoo(*command, "--name", "made")
    assert (code, "already has a population 'made'" in error) == (1, True)


def test_an_untrained_optimizer_is_nearly_adam(block: PopulationBlock, monkeypatch: pytest.MonkeyPatch) -> None:
    """And training it changes its step size; a task renamed is another task."""
    monkeypatch.setattr(learned_optimizer, "STEPS", 12)
    monkeypatch.setattr(learned_optimizer, "RATES", (learned_optimizer.FIRST_RATE,))
    subject = experiment("learned_optimizer", block, "nfn")
    adam = subject.baselines()["Adam, tuned rate"]
    assert adam["steps"] == 12 or adam["last loss"] < 2.4
    assert subject.measure()["last loss"] == pytest.approx(adam["last loss"], rel=0.15)
    initial = checkpoint_values(block, 0)
    assert (initial - block.values).abs().max() > 0.1
    subject.loss(torch.arange(4)).backward()
    assert all(p.grad is not None for p in (subject.network.log_rate, *subject.network.head.parameters()))


def test_results_are_kept_and_tabulated_over_seeds(
    block: PopulationBlock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaptation, "STEPS", (1,))
    monkeypatch.setattr(adaptation, "SHARED", (2, 1e-3))
    bench = Bench("adapt_noisy", block.population.zoo.path, "mlp", tmp_path, {"epochs": 1, "batch_size": 16})
    texts = ["unf,width=4,layers=2,dropout=0"]
    rows = run(bench, texts, seeds=2)
    stamps = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    assert run(Bench("adapt_noisy", block.population.zoo.path, "mlp", tmp_path, {"epochs": 1, "batch_size": 16}), texts, seeds=2) == rows  # fmt: skip
    assert stamps == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    table = board(rows)
    assert [row["metanet"] for row in table] == [*texts, "best baseline"]
    assert all("±" in list(row.values())[1] for row in table[:1])
    (folder,) = tmp_path.glob("mlp/adapt_noisy/unf*/seed-1")
    assert {"task.json", "weights.safetensors", "metrics.csv", "tensorboard"} <= {
        file.name for file in folder.iterdir()
    }


def test_what_was_interrupted_goes_on_to_the_same_end(
    block: PopulationBlock, tmp_path: Path, interrupted: Callable[[], AbstractContextManager[None]]
) -> None:
    config = TrainingConfig.read(metanet="unf", epochs=3, batch_size=24, fields=TINY)

    def trained(name: str) -> dict[str, torch.Tensor]:
        return train_experiment(
            weight_task("adapt_noisy").experiment(block, config), config, tmp_path / name
        ).state_dict()

    whole = trained("whole")
    with interrupted(), pytest.raises(UserError, match=r"stopped after .* of 3 epochs; run the same command to go on"):
        trained("parts")
    parts = trained("parts")
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    assert (tmp_path / "parts" / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()
