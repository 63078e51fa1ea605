"""Training on a small zoo: it learns, it is deterministic, it goes on where it stopped, and it refuses in one sentence."""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from metanets import runs
from metanets.baseline import baselines as registered_baselines
from metanets.metanet import metanet
from metanets.training import TrainingConfig, WeightData, baselines, evaluate, predictor_of, train
from metanets.training.run import predictions
from modelzoo.errors import UserError
from modelzoo.store import Zoo


@pytest.fixture(scope="module")
def run(metanet_zoo: Path, short: TrainingConfig, tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    """A metanet trained towards the test accuracy of 96 CNNs."""
    config = short.model_copy(update={"epochs": 25})
    return train(metanet_zoo, ["small_cnn"], tmp_path_factory.mktemp("runs") / "run", config, progress=False)


def test_it_learns(run: runs.Run) -> None:
    """Unseen models are predicted well; on the same models with shuffled targets the same predictions are worthless."""
    unseen = run.table[run.table["split"] != "train"]
    error = np.square(unseen["prediction"] - unseen["target"]).mean() / unseen["target"].var()
    shuffled = np.random.default_rng(0).permutation(unseen["target"])
    control = np.square(unseen["prediction"] - shuffled).mean() / unseen["target"].var()
    assert error < 0.5
    assert control > 1
    assert run.curves["train_loss"].iloc[-1] < 0.5 * run.curves["train_loss"].iloc[0]
    assert len(run.curves) == 25


def test_the_run_folder_is_whole(run: runs.Run, metanet_zoo: Path) -> None:
    table = Zoo.open(metanet_zoo)["small_cnn"].table
    ok = table[table["status"] == "ok"]
    assert runs.load(run.path).record == run.record
    assert run.table["id"].tolist() == ok.index.tolist()
    assert run.table["split"].tolist() == ok["split"].tolist()
    np.testing.assert_allclose(run.table["target"], ok["test_accuracy"], rtol=1e-6)
    assert run.embeddings.shape == (len(ok), run.record.config["embedding"])
    assert run.record.snapshot == Zoo.open(metanet_zoo).snapshot_id
    assert run.record.diverged == len(table) - len(ok)
    for row in evaluate(run):
        expected = run.record.metrics[row["split"]]
        assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-12)
        assert row.keys() - expected.keys() == {"model", "split"}


def test_the_saved_metanet_predicts_as_the_trained_one(run: runs.Run, metanet_zoo: Path) -> None:
    data = WeightData(Zoo.open(metanet_zoo), ["small_cnn"], "test_accuracy")
    table, embeddings = predictions(predictor_of(run), data)
    np.testing.assert_allclose(table["prediction"], run.table["prediction"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(embeddings, run.embeddings, rtol=1e-4, atol=1e-5)


def test_targets_of_other_splits_do_not_reach_training(metanet_zoo: Path, short: TrainingConfig) -> None:
    data = WeightData(Zoo.open(metanet_zoo), ["small_cnn"], "test_accuracy", batch_size=16)
    seen = [targets for batch in data.train_dataloader() for _, targets in batch]
    train_rows = data.table.loc[data.table["split"] == "train", "test_accuracy"]
    assert sorted(torch.cat(seen).tolist()) == sorted(train_rows.astype(np.float32).tolist())
    assert sum(len(models) for models, _ in data.training_batch()) == len(train_rows)


def test_interrupted_training_goes_on_to_the_same_end(
    metanet_zoo: Path, short: TrainingConfig, tmp_path: Path, interrupted: Callable[[], AbstractContextManager[None]]
) -> None:
    short = short.model_copy(update={"augment": {"orbit": 0.1, "mixup": 0.3}})
    whole = train(metanet_zoo, ["small_cnn"], tmp_path / "whole", short, progress=False)
    with interrupted(), pytest.raises(UserError, match="of 3 epochs; run the same command to go on") as caught:
        train(metanet_zoo, ["small_cnn"], tmp_path / "parts", short, progress=False)
    assert caught.value.exit_code == 130
    with pytest.raises(UserError, match="not finished"):
        runs.load(tmp_path / "parts")
    with pytest.raises(UserError, match="holds a run with seed = 0"):
        train(metanet_zoo, ["small_cnn"], tmp_path / "parts", short.model_copy(update={"seed": 1}), progress=False)
    parts = train(metanet_zoo, ["small_cnn"], tmp_path / "parts", short, progress=False)
    assert parts.curves["epoch"].tolist() == [0, 1, 2]
    pd.testing.assert_frame_equal(parts.curves, whole.curves)
    pd.testing.assert_frame_equal(parts.table, whole.table)


def test_a_finished_run_is_returned_untouched(run: runs.Run, metanet_zoo: Path) -> None:
    config = TrainingConfig.read(**run.record.training)
    before = (run.path / runs.RECORD).stat().st_mtime_ns
    assert train(metanet_zoo, ["small_cnn"], run.path, config, progress=False).record == run.record
    assert (run.path / runs.RECORD).stat().st_mtime_ns == before


def test_several_architectures_and_classes_of_text_with_everything_on(
    metanet_zoo: Path, short: TrainingConfig, tmp_path: Path
) -> None:
    """Two populations at once, a column of text, with augmentation and averaged weights."""
    config = short.model_copy(
        update={"target": "split", "average": 0.5, "augment": {"orbit": 0.5, "noise": 0.1, "mixup": 0.3}, "epochs": 2}
    )
    done = train(metanet_zoo, ["small_cnn", "mlp"], tmp_path / "run", config, progress=False)
    assert done.record.kind == "classification"
    assert set(done.table["population"]) == {"small_cnn", "mlp"}
    chances = done.table[[f"probability {name}" for name in done.record.classes]]
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)
    guessed = chances.to_numpy().argmax(1)
    assert [done.record.classes[i] for i in guessed] == done.table["prediction"].tolist()


def test_augmentation_moves_the_weights_but_not_the_functions(metanet_zoo: Path) -> None:
    data = WeightData(Zoo.open(metanet_zoo), ["mlp"], "test_accuracy")
    block, rows = data.blocks[0], torch.arange(4)
    still = block.models(rows)
    moved, _ = block.augmented(rows, data.targets[:4], 0, {"orbit": 0.5}, torch.Generator().manual_seed(0))
    assert not torch.allclose(still.values, moved.values)
    x = torch.randn(5, *block.population.task.inputs.shape, generator=torch.Generator().manual_seed(1))
    assert still.function is not None
    template = block.population.template()
    for model in range(4):
        tensors = block.structure.scatter(moved.values[:, model])
        state = {name: tensor[model] for name, tensor in block.tensors.items()}
        with torch.no_grad():
            outputs = torch.func.functional_call(template, {**state, **tensors}, (x,))
        torch.testing.assert_close(outputs.flatten(1), still.function(x)[model], rtol=1e-4, atol=1e-4)


def test_baselines_see_the_same_split_and_are_trained_once(run: runs.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from metanets.training import evaluation

    monkeypatch.setattr(evaluation, "FLAT", evaluation.FLAT.model_copy(update={"epochs": 2, "patience": None}))
    rows = baselines(run, progress=False)
    assert {row["model"] for row in rows} == {"flat_mlp", *registered_baselines()}
    assert {row["split"]: row["models"] for row in rows} == run.record.counts
    flat = runs.load(run.path / evaluation.BASELINES / "flat_mlp")
    assert flat.table["target"].tolist() == run.table["target"].tolist()
    assert baselines(run, progress=False) == rows
    assert runs.load(flat.path).record.finished == flat.record.finished
    unseen = {row["model"]: row["r2"] for row in rows if row["split"] == "validation"}
    assert min(unseen[name] for name in registered_baselines()) > 0.3


def test_probes_are_inputs_that_the_metanet_chooses(metanet_zoo: Path, short: TrainingConfig, tmp_path: Path) -> None:
    config = short.model_copy(update={"epochs": 1, "fields": {**metanet("graph_metanet").tiny, "probes": 3}})
    done = train(metanet_zoo, ["small_cnn"], tmp_path / "run", config, progress=False)
    assert done.record.config["probe_shape"] == list(Zoo.open(metanet_zoo)["small_cnn"].task.inputs.shape)
    assert predictor_of(done).metanet.readout.parts[0].probes.codes.requires_grad


def test_a_run_of_an_earlier_version_is_refused(run: runs.Run, tmp_path: Path) -> None:
    older = tmp_path / "run"
    shutil.copytree(run.path, older)
    tensors = load_file(older / runs.WEIGHTS)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, older / runs.WEIGHTS)
    with pytest.raises(UserError, match="another version of metanet 'graph_metanet' than this one; train it again"):
        predictor_of(runs.load(older))


def test_divergence_is_said_and_leaves_nothing(metanet_zoo: Path, short: TrainingConfig, tmp_path: Path) -> None:
    config = short.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(UserError, match=r"diverged in epoch 1; lower --learning-rate"):
        train(metanet_zoo, ["small_cnn"], tmp_path / "run", config, progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_evaluates_models_of_another_architecture_but_a_flat_one_refuses(
    run: runs.Run, metanet_zoo: Path, short: TrainingConfig, tmp_path: Path
) -> None:
    rows = evaluate(run, populations=["mlp"])
    assert sum(row["models"] for row in rows) == 40
    config = short.model_copy(update={"metanet": "flat_mlp", "fields": {}, "epochs": 1})
    flat = train(metanet_zoo, ["small_cnn"], tmp_path / "flat", config, progress=False)
    with pytest.raises(UserError, match=r"reads \d+ weights, those models have"):
        evaluate(flat, populations=["mlp"])
    with pytest.raises(UserError, match="reads one architecture"):
        train(metanet_zoo, ["small_cnn", "mlp"], tmp_path / "both", config, progress=False)
    assert not (tmp_path / "both").exists()


def test_a_zoo_that_has_moved_is_said(run: runs.Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    moved = runs.load(tmp_path / "run")
    moved.record = moved.record.model_copy(update={"zoo": str(tmp_path / "gone")})
    with pytest.raises(UserError, match="gone"):
        baselines(moved, progress=False)


def test_few_models_are_learned_from_and_the_other_splits_stay(metanet_zoo: Path) -> None:
    zoo = Zoo.open(metanet_zoo)
    split = zoo["mlp"].table["split"].to_numpy()
    few = WeightData(zoo, ["mlp"], "test_accuracy", models=8)
    assert len(few.rows("train")) == 8
    assert sorted(few.rows("train") + few.rows("unused")) == np.flatnonzero(split == "train").tolist()
    for name in ("validation", "test"):
        assert few.rows(name) == np.flatnonzero(split == name).tolist()
    assert sum(len(models) for models, _ in few.training_batch()) == 8
    for count in (3, 1 + (split == "train").sum()):
        with pytest.raises(UserError, match=f"can be learned from, got {count}"):
            WeightData(zoo, ["mlp"], "test_accuracy", models=count)
