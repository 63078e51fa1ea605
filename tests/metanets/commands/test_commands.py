"""`metazoo train`, `evaluate` and `embed` through the entry point that a shell calls."""

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer

from metanets import runs
from metanets.commands import train as train_command
from metanets.training import TrainingConfig
from modelzoo.store import Zoo
from tests.conftest import Command

Metazoo = Callable[..., Command]
FAST = ("--target", "test_accuracy", "--epochs", 2, "--batch-size", 16, "--set", "width=8", "--set", "signals=16")


@pytest.fixture
def run(metanet_zoo: Path, tmp_path: Path, metazoo: Metazoo) -> Path:
    """A run folder that the command made."""
    code, out, error = metazoo("train", metanet_zoo, "small_cnn", *FAST, "--out", tmp_path / "run", "--json")
    assert code == 0, error
    record = json.loads(out)
    assert Path(record["run"]) == tmp_path / "run"
    assert record["config"]["width"] == 8
    assert record["kind"] == "regression"
    return tmp_path / "run"


def test_train_evaluate_embed(run: Path, metazoo: Metazoo) -> None:
    code, out, _ = metazoo("evaluate", run, "--json")
    assert code == 0
    rows = {row["split"]: row for row in map(json.loads, out.splitlines())} if out[0] == "{" else {row["split"]: row for row in json.loads(out)}  # fmt: skip
    assert rows["test"]["r2"] == pytest.approx(runs.load(run).record.metrics["test"]["r2"])
    code, out, _ = metazoo("evaluate", run, "--population", "mlp")
    assert code == 0
    assert "tau" in out
    code, out, _ = metazoo("embed", run, "--json")
    assert code == 0
    paths = json.loads(out)
    assert Path(paths["picture"]).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(pd.read_csv(paths["table"])) == len(runs.load(run).embeddings)
    code, _, _ = metazoo("embed", run, "--split", "validation", "--method", "tsne", "--out", run / "deep" / "some.png")
    assert code == 0
    assert set(pd.read_csv(run / "deep" / "some.csv")["split"]) == {"validation"}


def test_the_default_folder_is_beside_the_zoo_where_the_app_looks(metanet_zoo: Path, metazoo: Metazoo) -> None:
    code, out, error = metazoo("train", metanet_zoo, "mlp", *FAST)
    assert code == 0, error
    (found,) = runs.list_runs(metanet_zoo.parent / "runs")
    assert found.path == metanet_zoo.parent / "runs" / "graph_metanet-mlp-test_accuracy"
    assert str(found.name) in out
    assert metazoo("train", metanet_zoo, "mlp", *FAST)[0] == 0  # finished: shown again, not trained again
    assert runs.load(found.path).record == found.record


def test_the_defaults_that_help_shows_are_those_of_training() -> None:
    app = typer.Typer()
    train_command.register(app)
    callback: Any = app.registered_commands[0].callback
    shared = {
        name: parameter.default
        for name, parameter in inspect.signature(callback).parameters.items()
        if name in TrainingConfig.model_fields
    }
    assert len(shared) == 14
    assert shared == {name: TrainingConfig.model_fields[name].default for name in shared}


BAD = {
    "no zoo": (["{tmp}/none", "small_cnn"], "none"),
    "unknown population": (["{zoo}", "smal_cnn"], "did you mean 'small_cnn'?"),
    "population twice": (["{zoo}", "mlp", "mlp"], "named twice"),
    "unknown target": (["{zoo}", "small_cnn", "--target", "test_acuracy"], "did you mean 'test_accuracy'?"),
    "constant target": (["{zoo}", "small_cnn", "--target", "steps"], "nothing to learn"),
    "text regressed": (["{zoo}", "small_cnn", "--target", "split", "--kind", "regression"], "holds text"),
    "unknown kind": (["{zoo}", "small_cnn", "--kind", "ranking"], "kind: input should be"),
    "unknown metanet": (["{zoo}", "small_cnn", "--metanet", "graph_metane"], "did you mean 'graph_metanet'?"),
    "unknown field": (["{zoo}", "small_cnn", "--target", "test_accuracy", "--set", "widht=3"], "did you mean 'width'?"),
    "bad field": (["{zoo}", "small_cnn", "--target", "test_accuracy", "--set", "width=-3"], "'width'"),
    "no field": (["{zoo}", "small_cnn", "--set", "width"], "takes key=value"),
    "unknown augmentation": (["{zoo}", "small_cnn", "--augment", "orbits"], "did you mean 'orbit'?"),
    "bad strength": (["{zoo}", "small_cnn", "--augment", "noise=much"], "must be a number, got 'much'"),
    "too strong": (["{zoo}", "small_cnn", "--augment", "dropout=2"], "must be in (0, 0.99], got 2"),
    "idle augmentation": (["{zoo}", "small_cnn", "--target", "test_accuracy", "--augment", "phase"], "changes nothing in models of small_cnn"),
    "unknown place": (["{zoo}", "small_cnn", "--data", "disk"], "data: input should be 'memory', 'mapped' or 'streamed', got 'disk'"),
    "half precision": (["{zoo}", "small_cnn", "--precision", "16-mixed"], "precision 16-mixed needs a GPU"),
    "no epochs": (["{zoo}", "small_cnn", "--epochs", "0"], "epochs: input should be greater than 0"),
    "two architectures": (["{zoo}", "small_cnn", "mlp", "--metanet", "flat_mlp", "--target", "test_accuracy"], "one architecture"),
    "diverged": (["{zoo}", "mlp", "--target", "test_accuracy", "--learning-rate", "1e30", "--epochs", "1"], "lower --learning-rate"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_training_is_one_sentence_and_nothing_is_written(
    case: str, metanet_zoo: Path, tmp_path: Path, metazoo: Metazoo
) -> None:
    arguments, said = BAD[case]
    snapshot = Zoo.open(metanet_zoo).snapshot_id
    given = [part.format(zoo=metanet_zoo, tmp=tmp_path) for part in arguments]
    code, out, error = metazoo("train", *given, "--out", tmp_path / "run")
    assert code in (1, 2)
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []
    assert Zoo.open(metanet_zoo).snapshot_id == snapshot


def test_too_few_models_is_one_sentence_and_nothing_is_written(
    metanet_zoo: Path, tmp_path: Path, metazoo: Metazoo
) -> None:
    """Models of one split alone, then no models at all; and a folder that is no zoo."""
    shutil.copytree(metanet_zoo, tmp_path / "zoo")
    (tmp_path / "folder").mkdir()
    population = Zoo.open(tmp_path / "zoo", writable=True)["mlp"]

    def refused(zoo: str) -> str:
        code, out, error = metazoo("train", tmp_path / zoo, "mlp", *FAST, "--out", tmp_path / "run")
        assert (code, out, len(error.strip().splitlines())) == (1, "", 1)
        assert not (tmp_path / "run").exists()
        return error

    population.delete_models(population.table.query("split != 'train'").index)
    assert "the validation split has 0 usable models" in refused("zoo")
    population.refresh()
    population.delete_models(population.table.index)
    assert "has no models" in refused("zoo")
    assert "folder" in refused("folder")


def test_a_folder_that_is_no_run_is_left_alone(metanet_zoo: Path, tmp_path: Path, metazoo: Metazoo) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("text")
    for name, said in (("mine", "not empty and not a run"), ("file", "is a file"), ("file/run", "cannot write")):
        code, _, error = metazoo("train", metanet_zoo, "mlp", *FAST, "--out", tmp_path / name)
        assert code == 1
        assert said in error
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_folder_with_another_run_is_left_alone(run: Path, metanet_zoo: Path, metazoo: Metazoo) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    code, _, error = metazoo("train", metanet_zoo, "mlp", *FAST, "--out", run)
    assert code == 1
    assert "holds a run with populations = ['small_cnn'], now it is ['mlp']" in error
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_bad_evaluations_and_embeddings(run: Path, tmp_path: Path, metazoo: Metazoo) -> None:
    (tmp_path / "file").write_text("text")
    for arguments, said in (
        (("evaluate", tmp_path / "missing"), "is not a run"),
        (("evaluate", run, "--population", "ml"), "did you mean 'mlp'?"),
        (("evaluate", run, "--zoo", tmp_path / "missing"), "missing"),
        (("embed", tmp_path / "missing"), "is not a run"),
        (("embed", run, "--method", "tsn"), "did you mean 'tsne'?"),
        (("embed", run, "--split", "tests"), "did you mean 'test'?"),
        (("embed", run, "--out", tmp_path / "file" / "picture.png"), "cannot write"),
    ):
        code, out, error = metazoo(*arguments)
        assert code in (1, 2)
        assert said in error
        assert len(error.strip().splitlines()) == 1
        assert out == ""
    assert not (run / "embedding.png").exists()
