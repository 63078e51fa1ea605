"""Leaderboards on a small zoo: every contender in one table, nothing repeated, bad input in one sentence."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from metanets import leaderboard
from metanets.baseline import baselines
from metanets.contender import Contender, defaults
from metanets.metanet import metanets
from metanets.training import TrainingConfig, WeightData, predictor_of, train
from metanets.training.cost import step_cost
from modelzoo.errors import UserError
from modelzoo.store import Zoo
from tests.conftest import Command

Metazoo = Callable[..., Command]
FEW = {"epochs": 1, "batch_size": 64}
THREE = ("graph_metanet", "flat_mlp+permutation", "weight_statistics")


@pytest.fixture(scope="module")
def folder(metanet_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A leaderboard of three contenders with two seeds; tests do not change it."""
    out = tmp_path_factory.mktemp("leaderboard") / "board"
    leaderboard.run(metanet_zoo, ["mlp"], out, ["test_accuracy"], THREE, 2, FEW, tiny=True)
    return out


def test_one_row_a_contender_with_its_mean_and_spread(folder: Path, metanet_zoo: Path) -> None:
    board = leaderboard.run(metanet_zoo, ["mlp"], folder, ["test_accuracy"], THREE, 2, FEW, tiny=True)
    assert {row["contender"] for row in board.rows} == set(THREE)
    assert not board.left_out
    for row in board.rows:
        scores = [
            json.loads((folder / "test_accuracy" / row["contender"] / f"seed-{seed}" / "score.json").read_text())
            for seed in (0, 1)
        ]
        r2 = pd.Series([score["metrics"]["test"]["r2"] for score in scores])
        assert row["seeds"] == 2
        assert row["r2 mean"] == pytest.approx(r2.mean())
        assert row["r2 sd"] == pytest.approx(r2.std())
        trained = row["contender"] in THREE[:2]
        assert (row["parameters"] is not None) == trained
        assert (row["step CPU ms"] is not None and row["peak MB"] > 0) == trained
    taus = [row["tau mean"] for row in board.rows if row["tau mean"] is not None]
    assert taus == sorted(taus, reverse=True)
    assert "±" in board.shown()[0]["r2"]


def test_what_is_stored_is_not_repeated_and_the_rest_is_added(
    folder: Path, metanet_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "board"
    shutil.copytree(folder, out)
    (out / "test_accuracy" / "graph_metanet" / "seed-1" / "score.json").unlink()  # as if interrupted just there
    trained = []
    original = leaderboard.train
    monkeypatch.setattr(leaderboard, "train", lambda *a, **k: trained.append(Path(a[2])) or original(*a, **k))
    few = (*THREE, "neuron_deepsets")
    board = leaderboard.run(metanet_zoo, ["mlp"], out, ["test_accuracy"], few, 2, FEW, tiny=True)
    assert [path.relative_to(out / "test_accuracy").as_posix() for path in trained] == [
        "neuron_deepsets/seed-0", "graph_metanet/seed-1", "neuron_deepsets/seed-1",
    ]  # fmt: skip
    assert len(board.rows) == 4
    with pytest.raises(UserError, match="holds a leaderboard with training"):
        leaderboard.run(metanet_zoo, ["mlp"], out, ["test_accuracy"], few, 2, {"epochs": 2}, tiny=True)
    with pytest.raises(UserError, match="holds a leaderboard with populations"):
        leaderboard.run(metanet_zoo, ["small_cnn"], out, ["test_accuracy"], few, 2, FEW, tiny=True)


def test_without_names_everything_that_can_read_the_models_takes_part(
    metanet_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two architectures at once: what reads but one is left out with the reason. Trainings are replaced by one."""
    every = {each.text for each in defaults()}
    assert every == {*metanets(), "flat_mlp+permutation", *baselines()}
    called = []
    score = leaderboard.Score(kind="regression", metrics={"test": {"r2": 0.5, "tau": 0.5}}, seconds=1)
    monkeypatch.setattr(leaderboard, "_trained", lambda *a: called.append(a[1].text) or score)
    board = leaderboard.run(metanet_zoo, ["mlp", "small_cnn"], tmp_path / "board", ["test_accuracy"], (), 1, FEW, True)
    both = {**metanets(), **baselines()}
    several = {name for name, each in both.items() if not each.one_architecture}
    assert set(called) == several & set(metanets())
    assert {row["contender"] for row in board.rows} == several
    assert set(board.left_out) == every - several
    assert all("reads one architecture" in reason for reason in board.left_out.values())


def test_contenders_are_read_and_refused_in_one_sentence() -> None:
    found = Contender.read("nfn,neurons=all,width=8+permutation+noise=0.2")
    assert found.subject is metanets()["nfn"]
    assert found.fields == {"neurons": "all", "width": 8}
    assert found.augment == {"permutation": None, "noise": 0.2}
    assert len({each.folder for each in defaults()}) == len(defaults())
    for text, said in (
        ("graph_metane", "did you mean 'graph_metanet'?"),
        ("nfn,widht=3", "did you mean 'width'?"),
        ("nfn,width", "takes key=value"),
        ("nfn,width=-1", "'width'"),
        ("weight_statistics+noise", "no augmentations"),
        ("nfn+noise=much", "must be a number"),
    ):
        with pytest.raises(UserError, match=said.replace("?", r"\?")):
            Contender.read(text)


def test_memory_of_a_step_grows_with_the_models_in_it(metanet_zoo: Path, tmp_path: Path) -> None:
    config = TrainingConfig.read(metanet="neuron_deepsets", target="test_accuracy", epochs=1, fields={"width": 8})
    done = train(metanet_zoo, ["mlp"], tmp_path / "run", config, progress=False)
    data = WeightData(Zoo.open(metanet_zoo), ["mlp"], "test_accuracy")
    small, large = (step_cost(predictor_of(done), data.collate(list(range(n)))) for n in (4, 32))
    assert 4 < large.megabytes / small.megabytes < 12
    assert small.milliseconds > 0
    held = data.blocks[0].values.shape[0] * 32 * torch.finfo(torch.float32).bits / 8 / 2**20
    assert large.megabytes > held  # a step keeps more than one copy of the weights
    predictor, seen = predictor_of(done), []
    predictor.metanet.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    for precision in ("32", "bf16-mixed"):
        step_cost(predictor, data.collate([0, 1]), precision)
    assert seen == [False] * (len(seen) // 2) + [True] * (len(seen) // 2), "a step is measured as it is trained"


def test_the_command_prints_tables_csv_and_json(folder: Path, metanet_zoo: Path, metazoo: Metazoo) -> None:
    names = [part for name in THREE for part in ("--metanet", name)]
    command = ("leaderboard", metanet_zoo, "mlp", "--target", "test_accuracy", *names, "--seeds", 2,
               "--epochs", 1, "--tiny", "--out", folder)  # fmt: skip
    code, out, error = metazoo(*command)
    assert code == 0, error
    assert "flat_mlp+permutation" in out
    code, out, _ = metazoo(*command, "--json")
    rows = json.loads(out)
    assert {row["contender"] for row in rows} == set(THREE)
    code, out, _ = metazoo(*command, "--csv")
    lines = out.strip().splitlines()
    assert lines[0].startswith("target,contender,r2 mean")
    assert len(lines) == 4
    assert math.isfinite(float(lines[1].split(",")[2]))


def test_the_command_trains_as_it_is_told_and_a_board_told_otherwise_is_refused(
    metanet_zoo: Path, tmp_path: Path, metazoo: Metazoo
) -> None:
    told = {"data": "streamed", "precision": "64", "weight-decay": "0.3", "average": "0.5"}
    options = [part for key, value in told.items() for part in (f"--{key}", value)]
    command = ("leaderboard", metanet_zoo, "mlp", "--target", "test_accuracy", "--metanet", "neuron_deepsets", "--metanet",
               "weight_statistics", "--seeds", 1, "--epochs", 1, "--tiny", "--out", tmp_path / "board")  # fmt: skip
    code, out, error = metazoo(*command, *options, "--json")
    assert code == 0, error
    assert {row["contender"] for row in json.loads(out)} == {"neuron_deepsets", "weight_statistics"}
    run = json.loads(next((tmp_path / "board").rglob("run.json")).read_text())
    assert {key: str(run["training"][key.replace("-", "_")]) for key in told} == told
    shared = json.loads((tmp_path / "board" / "leaderboard.json").read_text())
    assert {key: str(shared["training"][key.replace("-", "_")]) for key in told} == told
    for key, value in {"data": "mapped", "precision": "32", "weight-decay": "0.1", "average": "0.9"}.items():
        code, out, error = metazoo(*command, *options, f"--{key}", value)
        assert (code > 0, out) == (True, "")
        assert "holds a leaderboard with training" in error.replace("\n", " ")
    assert "input should be" in metazoo(*command, "--data", "disk")[2]


def test_the_registries_are_listed(metazoo: Metazoo) -> None:
    code, out, error = metazoo("metanets", "--json")
    assert code == 0, error
    rows = {row["name"]: row for row in json.loads(out)}
    assert set(rows) == {*metanets(), *baselines()}
    assert rows["scalegmn"]["invariant under"] == "monomial"
    assert rows["flat_mlp"]["reads"] == "one architecture"
    assert "function_probes" in metazoo("metanets")[1]
    code, out, _ = metazoo("augmentations", "--json")
    assert {row["name"]: row["keeps"] for row in json.loads(out)}["mixup"] == "mixture"


BAD = {
    "no zoo": (["{tmp}/none", "mlp"], "none"),
    "unknown population": (["{zoo}", "mlpp"], "did you mean 'mlp'?"),
    "unknown target": (["{zoo}", "mlp", "--target", "test_acuracy"], "did you mean 'test_accuracy'?"),
    "target twice": (["{zoo}", "mlp", "--target", "seed", "--target", "seed"], "--target names something twice"),
    "unknown metanet": (["{zoo}", "mlp", "--metanet", "graph_metane"], "did you mean 'graph_metanet'?"),
    "unknown augmentation": (["{zoo}", "mlp", "--metanet", "flat_mlp+orbits"], "did you mean 'orbit'?"),
    "no seeds": (["{zoo}", "mlp", "--seeds", "0"], "at least one seed"),
    "no epochs": (["{zoo}", "mlp", "--epochs", "0"], "epochs: input should be greater than 0"),
    "two formats": (["{zoo}", "mlp", "--csv", "--json"], "exclude each other"),
    "one architecture": (["{zoo}", "mlp", "small_cnn", "--target", "test_accuracy", "--metanet", "flat_mlp"], "reads one architecture"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_leaderboard_is_one_sentence(case: str, metanet_zoo: Path, tmp_path: Path, metazoo: Metazoo) -> None:
    arguments, said = BAD[case]
    given = [part.format(zoo=metanet_zoo, tmp=tmp_path) for part in arguments]
    code, out, error = metazoo("leaderboard", *given, "--out", tmp_path / "board")
    assert code in (1, 2)
    assert said in error.replace("\n", " ")
    assert out == ""
    assert not list(tmp_path.rglob("score.json"))


def test_other_peoples_folders_are_left_alone(metanet_zoo: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("text")
    for name, said in (("mine", "not a leaderboard"), ("mine/thesis.txt", "is a file")):
        with pytest.raises(UserError, match=said):
            leaderboard.run(metanet_zoo, ["mlp"], tmp_path / name, ["test_accuracy"], THREE, 1, FEW)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
