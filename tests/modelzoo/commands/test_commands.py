"""The ground floor's commands, through the entry point that a shell calls."""

from collections.abc import Callable
from pathlib import Path

import pytest

from modelzoo.family import families
from modelzoo.store import Zoo
from modelzoo.task import tasks
from tests.conftest import Command

Metazoo = Callable[..., Command]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo with six perceptrons and four implicit representations; tests do not change it."""
    from modelzoo.training import PopulationConfig, populate

    path = tmp_path_factory.mktemp("commands") / "zoo"
    for family, models, learning_rate in (("mlp", 6, "1e-4:1e-1"), ("siren", 4, None)):
        fields = {"models": models, "steps": 20, "tiny": True, "learning_rate": learning_rate}
        populate(path, PopulationConfig.read(family=family, **fields), family, progress=False)
    return path


@pytest.fixture
def own(made: Path, tmp_path: Path, metazoo: Metazoo) -> Path:
    """A copy that a test may change."""
    for name in ("mlp", "siren"):
        assert metazoo("cp", made, name, tmp_path / "own").code == 0
    return tmp_path / "own"


def test_populate_makes_extends_and_reports(metazoo: Metazoo, tmp_path: Path) -> None:
    command = ["populate", tmp_path / "zoo", "mlp", "--tiny", "--steps", "5", "--learning-rate", "1e-3:1e-1",
               "--set", "hidden=[5]", "--name", "mine"]  # fmt: skip
    summary = metazoo(*command, "--models", "3", "--json").json
    assert (summary["population"], summary["models"], summary["diverged"]) == ("mine", 3, 0)
    assert summary["min"] <= summary["test_accuracy median"] <= summary["max"]
    shown = metazoo(*command, "--models", "4")
    assert shown.code == 0
    assert "mine" in shown.out
    assert f"metazoo show {tmp_path / 'zoo'} mine" in shown.out
    population = Zoo.open(tmp_path / "zoo")["mine"]
    assert len(population) == 4
    assert population.info.family_config["hidden"] == [5]


def test_ls(metazoo: Metazoo, made: Path) -> None:
    rows = metazoo("ls", made, "--json").json
    assert [(row["population"], row["models"], row["metric"]) for row in rows] == [
        ("mlp", 6, "test_accuracy"), ("siren", 4, "test_psnr"),
    ]  # fmt: skip
    table = metazoo("ls", made)
    assert table.code == 0
    assert "digits_inr" in table.out


def test_show_a_population_and_a_model(metazoo: Metazoo, made: Path) -> None:
    population = metazoo("show", made, "mlp", "--json").json
    assert population["models"] == 6
    assert population["family"] == "mlp"
    assert {column["column"] for column in population["columns"]} >= {"test_accuracy", "learning_rate"}
    model = metazoo("show", made, "siren/2", "--json").json
    assert model["columns"]["id"] == 2
    assert model["columns"]["instance"] == 2
    assert {tensor["tensor"] for tensor in model["tensors"]} >= {"layers.0.weight", "layers.0.bias"}
    for what in ("mlp", "siren/2"):
        assert metazoo("show", made, what).code == 0


def test_query(metazoo: Metazoo, made: Path) -> None:
    expected = [f"mlp/{i}" for i in Zoo.open(made)["mlp"].query("test_accuracy > 0.3").index]
    found = metazoo("query", made, "test_accuracy > 0.3 and family == 'mlp'", "--json").json
    assert [row["model"] for row in found] == expected
    assert 0 < len(found) < 6
    assert metazoo("query", made, "test_accuracy > 99", "--json").json == []
    table = metazoo("query", made, "family == 'siren'", "--limit", "2")
    assert table.code == 0
    assert "4 models" in table.out
    assert "2 more" in table.out
    assert "weight_decay" not in table.out, "what is the same for all is left out"


def test_history_and_reading_the_past(metazoo: Metazoo, own: Path) -> None:
    before = metazoo("history", own, "--json").json
    assert before[0]["message"] == "copy siren to siren"
    assert metazoo("rm", own, "siren", "--yes").code == 0
    assert [row["population"] for row in metazoo("ls", own, "--json").json] == ["mlp"]
    past = before[0]["snapshot"]
    assert [row["population"] for row in metazoo("ls", own, "--at", past, "--json").json] == ["mlp", "siren"]
    assert metazoo("show", own, "siren/1", "--at", past, "--json").json["columns"]["id"] == 1
    assert metazoo("history", own).code == 0


def test_rm_removes_models_asks_first_and_refuses_nothing_found(
    metazoo: Metazoo, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("typer.confirm", lambda question: False)
    refused = metazoo("rm", own, "mlp")
    assert refused.code == 1
    assert "nothing was removed" in refused.error
    assert metazoo("rm", own, "mlp", "--where", "id in [1, 4]", "--yes").code == 0
    assert Zoo.open(own)["mlp"].table.index.tolist() == [0, 2, 3, 5]
    assert "fulfils" in metazoo("rm", own, "mlp", "--where", "id > 90", "--yes").error


def test_cp_refuses_a_taken_name_and_renames(metazoo: Metazoo, own: Path, tmp_path: Path) -> None:
    assert "already has a population 'mlp'" in metazoo("cp", own, "mlp", own).error
    assert metazoo("cp", own, "mlp", own, "--name", "twin").code == 0
    assert Zoo.open(own).names() == ["mlp", "siren", "twin"]
    assert metazoo("cp", own, "mpl", tmp_path / "new").code == 2
    assert not (tmp_path / "new").exists()


def test_verify_passes_and_fails(metazoo: Metazoo, own: Path) -> None:
    good = metazoo("verify", own)
    assert (good.code, good.out.strip()) == (0, f"{own}: everything is readable and in order")
    assert metazoo("verify", own, "--json").json == []
    largest = max((own / "chunks").iterdir(), key=lambda file: file.stat().st_size)
    raw = bytearray(largest.read_bytes())
    raw[len(raw) // 3] ^= 0xFF
    largest.write_bytes(raw)
    bad = metazoo("verify", own, "--json")
    assert bad.code == 1
    (problem,) = bad.json
    assert problem["population"] in ("mlp", "siren")
    assert problem["array"].startswith("params/")
    assert problem["models"]
    assert "params/" in metazoo("verify", own).out


def test_catalogues(metazoo: Metazoo) -> None:
    rows = metazoo("families", "--json").json
    assert [row["family"] for row in rows] == list(families())
    assert all(row["parameters"] >= 0 and row["paper"] and row["task"] in tasks() for row in rows)
    assert [row["task"] for row in metazoo("tasks", "--json").json] == list(tasks())
    papers = metazoo("papers", "--json").json
    assert papers
    assert any(row["implemented by"] for row in papers)
    for command in ("families", "tasks", "papers"):
        assert metazoo(command).code == 0


def test_doctor(metazoo: Metazoo) -> None:
    rows = {row["check"]: row for row in metazoo("doctor", "--json").json}
    assert rows["torch"]["found"]
    assert not rows["torch"]["remedy"]
    assert {"python", "device", "torch threads", "backend", "icechunk", "zarr"} <= set(rows)
    assert metazoo("doctor").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["populate", "NEW", "mpl", "--models", "2"], 2, "unknown family 'mpl'; did you mean 'mlp'?"),
        (["populate", "NEW", "mlp.huge", "--models", "2"], 2, "unknown variant of mlp 'huge'"),
        (["populate", "NEW", "mlp", "--models", "2", "--task", "digit"], 2, "unknown task 'digit'; did you mean 'digits'?"),
        (["populate", "NEW", "mlp", "--models", "2", "--set", "hiden=3"], 2, "unknown config key of mlp 'hiden'; did you mean 'hidden'?"),
        (["populate", "NEW", "mlp", "--models", "2", "--set", "hidden"], 2, "--set takes key=value, got 'hidden'"),
        (["populate", "NEW", "mlp", "--models", "2", "--set", "hidden=wide"], 2, "config key 'hidden' of family 'mlp'"),
        (["populate", "NEW", "small_cnn", "--models", "2", "--task", "digits_inr"], 2, "takes image but task 'digits_inr' gives coordinates [2]"),
        (["populate", "NEW", "mlp", "--models", "0"], 2, "at least one model, got 0"),
        (["populate", "NEW", "mlp", "--models", "2", "--learning-rate", "quick"], 2, "learning-rate must be a number or a range"),
        (["populate", "NEW", "mlp", "--models", "2", "--batch-size", "9999"], 2, "batch-size 9999 is larger than the 1437 training samples"),
        (["populate", "NEW", "mlp", "--models", "2", "--name", "a/b"], 2, "population name 'a/b' is not usable"),
        (["populate", "FILE", "mlp", "--models", "2"], 1, "is a file"),
        (["populate", "FOLDER", "mlp", "--models", "2"], 1, "is not a zoo"),
        (["populate", "ZOO", "mlp", "--models", "9", "--name", "mlp"], 1, "population 'mlp' was made with"),
        (["ls", "NEW"], 1, "there is no zoo at"),
        (["ls", "FOLDER"], 1, "is not a zoo (no Icechunk repository there)"),
        (["ls", "FILE"], 1, "is not a zoo"),
        (["ls", "ZOO", "--at", "yesterday"], 1, "no snapshot or tag 'yesterday'"),
        (["show", "ZOO", "sire"], 2, "unknown population 'sire'; did you mean 'siren'?"),
        (["show", "ZOO", "mlp/77"], 1, "has no model 77; its ids go from 0 to 5"),
        (["show", "ZOO", "mlp/first"], 2, "model 'first' is not a number"),
        (["query", "ZOO", "test_acuracy > 1"], 2, "unknown column 'test_acuracy'; did you mean 'test_accuracy'?"),
        (["query", "ZOO", "id >"], 2, "cannot be read"),
        (["query", "ZOO", "__import__('os')"], 2, "may only compare columns with values; call is not allowed"),
        (["rm", "ZOO", "mlpp", "--yes"], 2, "unknown population 'mlpp'; did you mean 'mlp'?"),
        (["verify", "FOLDER"], 1, "is not a zoo"),
        (["history", "NEW"], 1, "there is no zoo at"),
        (["cp", "NEW", "mlp", "NEW2"], 1, "there is no zoo at"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_input_is_one_sentence(
    metazoo: Metazoo, made: Path, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes").touch()
    (tmp_path / "file").touch()
    places = {"NEW": tmp_path / "new", "NEW2": tmp_path / "new2", "FOLDER": tmp_path / "folder",
              "FILE": tmp_path / "file", "ZOO": made}  # fmt: skip
    before = Zoo.open(made).snapshot_id
    run = metazoo(*(places.get(argument, argument) for argument in arguments))
    assert run.code == code
    assert words in run.error
    assert run.error.startswith("error: ")
    assert run.error.count("\n") == 1
    assert run.out == ""
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "new2").exists()
    assert [entry.name for entry in (tmp_path / "folder").iterdir()] == ["notes"]
    assert Zoo.open(made).snapshot_id == before


def test_a_missing_option_and_an_unknown_command_are_usage_errors(metazoo: Metazoo, tmp_path: Path) -> None:
    for arguments in (["populate", tmp_path / "zoo", "mlp"], ["poplate"], ["ls"]):
        run = metazoo(*arguments)
        assert run.code == 2
        assert "Usage" in run.error


def test_brackets_in_names_are_shown(metazoo: Metazoo, tmp_path: Path) -> None:
    run = metazoo("ls", tmp_path / "[bold]zoo")
    assert "[bold]zoo" in run.error


def test_a_population_whose_first_batch_is_not_there_yet(metazoo: Metazoo, own: Path) -> None:
    zoo = Zoo.open(own, writable=True)
    zoo.create_population(zoo["mlp"].info.model_copy(update={"name": "empty"}))
    rows = {row["population"]: row for row in metazoo("ls", own, "--json").json}
    assert (rows["empty"]["models"], rows["empty"]["median"]) == (0, None)
    assert metazoo("show", own, "empty", "--json").json["models"] == 0
    assert "has no models yet" in metazoo("show", own, "empty/0").error
    for command in (["ls", own], ["show", own, "empty"], ["query", own, "id >= 0"], ["verify", own]):
        assert metazoo(*command).code == 0
    assert metazoo("rm", own, "empty", "--yes").code == 0
