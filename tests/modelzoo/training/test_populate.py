"""Populating: reproducible, resumable, extendable, and refused in one sentence."""

import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from modelzoo.errors import UserError
from modelzoo.kernels import native
from modelzoo.store import Population, Zoo
from modelzoo.training import Plan, PopulationConfig, populate
from modelzoo.training.choices import FUSED, block_size
from tests.modelzoo.training.toys import plan_of, register_toys

TIMING = {"columns/wall_time"}  # the only array that may differ between two runs


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    register_toys(monkeypatch)


def config_of(family: str = "toy", **fields: object) -> PopulationConfig:
    return PopulationConfig.read(family=family, **{"models": 6, "block": 3, "learning_rate": "1e-3:1e-1", **fields})


def same(left: Population, right: Population, models: int | None = None) -> bool:
    assert left.paths() == right.paths()
    for path in left.paths():
        if path not in TIMING:
            a, b = (population.array(path)[:models] for population in (left, right))
            if not (a.tolist() == b.tolist() if a.dtype.kind in "OTU" else a.tobytes() == b.tobytes()):
                return False
    return True


@pytest.mark.parametrize("family", ["toy", "branching", "prototypes"])
def test_the_same_seed_gives_the_same_zoo_bit_for_bit(tmp_path: Path, family: str) -> None:
    first, second = (populate(tmp_path / name, config_of(family), progress=False) for name in "ab")
    torch.manual_seed(12345)  # the state of the global generator does not matter
    third = populate(tmp_path / "c", config_of(family, seed=1), progress=False)
    assert same(first, second)
    assert not same(first, third)
    assert Zoo.open(tmp_path / "a").verify() == []


def test_asking_for_more_models_extends_and_asking_again_changes_nothing(tmp_path: Path) -> None:
    four = populate(tmp_path / "zoo", config_of(models=4), progress=False)
    ten = populate(tmp_path / "zoo", config_of(models=10, block=None), progress=False)
    assert ten.table.index.tolist() == list(range(10))
    assert same(four, ten, 4), "what was there stays"
    snapshot = Zoo.open(tmp_path / "zoo").snapshot_id
    for models in (10, 3):
        assert len(populate(tmp_path / "zoo", config_of(models=models), progress=False)) == 10
    assert Zoo.open(tmp_path / "zoo").snapshot_id == snapshot


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 5}, "steps = None, now it is 5"),
        ({"seed": 3}, "seed = 0, now it is 3"),
        ({"family_config": {"width": 7}}, "width = 6, now it is 7"),
        ({"learning_rate": 0.5}, "learning_rate = '1e-3:1e-1', now it is 0.5"),
        ({"splits": "1:1:1"}, "splits = '80:10:10', now it is '1:1:1'"),
    ],
)
def test_another_config_under_the_same_name_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    populate(tmp_path / "zoo", config_of(models=2, steps=None), "mine", progress=False)
    with pytest.raises(UserError, match="population 'mine' was made with") as caught:
        populate(tmp_path / "zoo", config_of(models=2, **change), "mine", progress=False)
    assert words in str(caught.value)
    assert len(Zoo.open(tmp_path / "zoo")["mine"]) == 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"models": 0}, "at least one model, got 0"),
        ({"models": -3}, "at least one model, got -3"),
        ({"steps": 0}, "steps: input should be greater than 0"),
        ({"optimizer": "sdg"}, "optimizer: input should be 'adam' or 'sgd', got 'sdg'"),
        ({"learning_rate": "fast"}, "learning-rate must be a number or a range such as 1e-4:1e-1, got 'fast'"),
        ({"learning_rate": "1:0.1"}, "learning-rate must be a positive, rising range"),
        ({"learning_rate": "nan"}, "learning-rate must be a number"),
        ({"weight_decay": "0:1"}, "weight-decay must be a positive, rising range"),
        ({"data_fraction": 1.5}, "data-fraction must lie in (0, 1], got 1.5"),
        ({"data_fraction": 0.05}, "batch-size 16 is larger than the 10 training samples"),
        ({"family_config": {"widht": 3}}, "unknown config key of toy 'widht'; did you mean 'width'?"),
        ({"family_config": {"width": "broad"}}, "config key 'width' of family 'toy'"),
        ({"family": "tyo"}, "unknown family 'tyo'; did you mean 'toy'?"),
        ({"family": "toy.wid"}, "unknown variant of toy 'wid'; did you mean 'wide'?"),
        ({"task": "blob"}, "unknown task 'blob'; did you mean 'blobs'?"),
        ({"family": "small_cnn", "task": "blobs"}, "family 'small_cnn' takes image but task 'blobs' gives vector [4]"),
        ({"task": "digits"}, "family 'toy' takes vector but task 'digits' gives image [1 × 8 × 8]"),
        ({"splits": "80:20"}, "splits must be shares of train, validation and test such as 80:10:10, got '80:20'"),
        ({"splits": "0:0:0"}, "splits must be shares"),
        ({"splits": "1:-1:1"}, "splits must be shares"),
        ({"step": 3}, "unknown population key 'step'; did you mean 'steps'?"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, fields: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError) as caught:
        populate(tmp_path / "zoo", config_of(**fields), progress=False)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code in (1, 2)
    assert not (tmp_path / "zoo").exists()


def test_an_interrupted_population_goes_on_where_it_was(tmp_path: Path) -> None:
    """Ctrl-C, then kill -9, each in the middle of a real run; the end is the zoo that was never interrupted."""
    path = tmp_path / "zoo"
    command = [sys.executable, "-m", "modelzoo.cli", "populate", str(path), "mlp", "--models", "16", "--block", "2",
               "--name", "mine", "--steps", "150", "--gradient-clip", "1", "--tiny"]  # fmt: skip
    stored = 0
    for stop in (signal.SIGINT, signal.SIGKILL):
        child = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores Ctrl-C
        )  # fmt: skip
        enough = stored + 2
        while stored < enough:
            child.send_signal(signal.SIGCONT)
            time.sleep(0.2)
            child.send_signal(signal.SIGSTOP)  # it waits while the zoo is opened, however long that takes
            assert child.poll() is None, child.communicate()
            opened = Zoo.open(path) if path.exists() else {}
            stored = len(opened["mine"]) if "mine" in opened else 0
        child.send_signal(stop)
        child.send_signal(signal.SIGCONT)
        _, message = child.communicate(timeout=60)
        zoo = Zoo.open(path)
        stored = len(zoo["mine"])
        assert enough <= stored < 16
        assert stored % 2 == 0, "whole batches"
        assert zoo.verify() == []
        if stop == signal.SIGINT:
            assert child.returncode == 130, message
            assert f"stopped with {stored} of 16 models of 'mine' stored; run the same command to go on" in message.replace("\n", " ")  # fmt: skip
            assert "Traceback" not in message
    config = PopulationConfig.read(family="mlp", models=16, block=2, steps=150, gradient_clip=1.0, tiny=True)
    resumed = populate(path, config, "mine", progress=False)
    assert resumed.table.index.tolist() == list(range(16))
    assert same(resumed, populate(tmp_path / "straight", config, "mine", progress=False))


def test_every_diverged_model_is_stored(tmp_path: Path) -> None:
    population = populate(
        tmp_path / "zoo", config_of(models=8, learning_rate="1e-3:1e300", optimizer="sgd"), progress=False
    )
    status = population.table["status"]
    assert set(status) == {"ok", "diverged"}
    assert Zoo.open(tmp_path / "zoo").verify() == []
    assert population.query("status == 'diverged'")["learning_rate"].min() > population.query("status == 'ok'")["learning_rate"].max()  # fmt: skip


def test_hyperparameters_are_drawn_per_model() -> None:
    plan = plan_of("toy", models=400, learning_rate="1e-4:1e-1", data_fraction="0.2:1", init_scale="0.5:2")
    table = plan.hyperparameters(range(400))
    assert table["learning_rate"].between(1e-4, 1e-1).all()
    assert np.log10(table["learning_rate"]).mean() == pytest.approx(-2.5, abs=0.15), "log-uniform"
    assert table["data_fraction"].mean() == pytest.approx(0.6, abs=0.05), "uniform"
    assert table["seed"].is_unique
    assert table["split"].value_counts(normalize=True)["train"] == pytest.approx(0.8, abs=0.06)
    columns = ["learning_rate", "data_fraction", "init_scale"]
    correlation = table[columns].rank().corr().to_numpy() - np.eye(3)
    assert abs(correlation).max() < 0.2, "drawn independently"
    part = plan.hyperparameters([7, 399])
    assert part.iloc[1].to_dict() == table.iloc[399].to_dict(), "a model depends on the seed and its number alone"


def test_splits_have_the_shares_that_are_asked_for() -> None:
    def counts(splits: str) -> dict[str, int]:
        return plan_of("toy", models=700, splits=splits).hyperparameters(range(700))["split"].value_counts().to_dict()

    assert counts("55:5:10") == pytest.approx({"train": 550, "validation": 50, "test": 100}, abs=30)
    assert counts("55:5:10") == counts("11:1:2"), "shares, not numbers"
    assert counts("0:1:0") == {"validation": 700}


def test_models_of_the_same_instance_share_a_split() -> None:
    plan = Plan.of(PopulationConfig.read(family="siren", models=4000))
    table = plan.hyperparameters([*range(40), *range(1797, 1837), *range(3594, 3634)])
    assert (table.groupby("instance")["split"].nunique() == 1).all()
    assert table.groupby("instance")["seed"].nunique().eq(3).all()
    assert (table["label"] == plan.task.data().instance_labels[table["instance"].to_list()].numpy()).all()


def test_block_sizes_are_moderate() -> None:
    assert block_size(Plan.of(PopulationConfig.read(family="siren", models=1))) == FUSED
    big = Plan.of(PopulationConfig.read(family="siren", models=1, family_config={"hidden": [512, 512]}))
    assert block_size(big) == 4
    assert block_size(plan_of("toy", block=5)) == 5


def test_a_missing_compiler_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    config = PopulationConfig.read(family="siren", models=2, steps=2)
    populate(tmp_path / "with", config)
    assert "compiler" not in capsys.readouterr().out
    monkeypatch.setattr(native, "compiler", lambda: "")
    population = populate(tmp_path / "without", config)
    assert "there is no C++ compiler: perceptrons" in capsys.readouterr().out.replace("\n", " ")
    assert list(population.table["status"]) == ["ok", "ok"]
