"""Every benchmark script runs at its small size and keeps the JSON contract; the driver refuses sides that disagree."""

import copy
import json
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks import harness
from modelzoo.task import tasks

FOLDER = Path(harness.__file__).parent
NO_SCRIPTS = {"harness", "populating", "demo", "equivariant", "gpu"}  # shared parts, the demonstration, no small size
SCRIPTS = sorted(file.stem for file in FOLDER.glob("*.py") if file.stem not in NO_SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_prints_its_cases_and_the_summary(
    script: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [str(FOLDER / f"{script}.py"), "--small", "--json", "--repeats", "1"]
    cache = tmp_path_factory.getbasetemp().parent / "benchmarks"  # not the user's; compiled once for all scripts
    monkeypatch.setenv("METAZOO_CACHE", str(cache))
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", command)
    assert tasks()
    registry = copy.copy(tasks.__globals__["_REGISTRY"])
    monkeypatch.setitem(tasks.__globals__, "_REGISTRY", registry)  # for the tasks that a script adds
    with torch.random.fork_rng(devices=[]), pytest.raises(SystemExit) as stopped:
        runpy.run_path(command[0], run_name="__main__")
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    *rows, summary = map(json.loads, printed.splitlines())
    assert rows
    assert set(summary) == {"name", "ours", "baseline", "unit", "ratio", "agree"}
    assert summary["name"] == script
    assert summary["agree"] is True
    assert summary["ratio"] == min(row["ratio"] for row in rows)
    for row in rows:  # more models a second are better, and fewer milliseconds
        better, worse = ("baseline", "ours") if row["unit"] == "ms" else ("ours", "baseline")
        assert row["ratio"] == pytest.approx(row[better] / row[worse])


def case(**fields: object) -> harness.Case:
    same = {
        "name": "sum",
        "ours": lambda: torch.ones(3).sum(),
        "baseline": lambda: torch.tensor(3.0),
        "agree": harness.equal,
    }
    return harness.Case(**{**same, **fields})  # type: ignore[arg-type]


def test_sides_that_disagree_are_not_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--json", "--repeats", "1"])
    assert harness.run("both", [case(), case(name="wrong", baseline=lambda: torch.tensor(4.0))]) == 1
    good, wrong, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert good["agree"]
    assert not wrong["agree"]
    assert wrong["ours"] is None
    assert summary == {"name": "both", "ours": None, "baseline": None, "unit": "ms", "ratio": 0.0, "agree": False}
    monkeypatch.setattr(sys, "argv", ["x"])
    assert harness.run("both", [case(), case(name="wrong", baseline=lambda: torch.tensor(4.0))]) == 1
    assert "disagree" in capsys.readouterr().out


def test_work_of_different_amounts_is_compared_by_speed() -> None:
    assert case().numbers(0.5, 2.0) == (500.0, 2000.0, 4.0)
    assert case(work=64).numbers(2.0, 4.0) == (32.0, 16.0, 2.0)
    assert case(work=64, baseline_work=4).numbers(2.0, 4.0) == (32.0, 1.0, 32.0)


def test_results_are_kept_with_machine_and_versions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(sys, "argv", ["x", "--write", "--repeats", "1", "--clock", "processor"])
    assert harness.run("both", [case(), case(name="wrong", baseline=lambda: torch.tensor(4.0))]) == 1
    assert not harness.RESULTS.exists(), "sides that disagree leave no numbers"
    assert harness.run("both", [case(memory=True)]) == 0
    row = pd.read_csv(tmp_path / "results" / "both.csv").iloc[0]
    assert row["name"] == "sum"
    assert row["ratio"] == pytest.approx(row["baseline"] / row["ours"], rel=1e-3)
    assert row["clock"] == "processor"
    assert row["torch"] == torch.__version__
    assert row["ours_megabytes"] >= 0
    assert "peak MB" in capsys.readouterr().out


def test_the_peak_counts_what_is_held_at_once() -> None:
    def held(count: int) -> float:
        def call() -> None:
            kept = [torch.ones(2**18) for _ in range(count)]
            del kept
            torch.ones(2**18)

        return harness.peak_megabytes(call)

    assert held(2) == pytest.approx(2, rel=1e-3)
    assert held(5) == pytest.approx(5, rel=1e-3)


def test_agreement() -> None:
    a, b = {"x": torch.ones(3)}, {"x": torch.ones(3) + 1e-6}
    assert harness.equal(a, {"x": torch.ones(3)})
    assert not harness.equal(a, b)
    assert not harness.equal(a, {"y": torch.ones(3)})
    assert not harness.equal(torch.tensor(0.0), torch.tensor(-0.0))
    assert not harness.equal(torch.ones(3), torch.ones(3).double())
    assert harness.equal([torch.tensor(float("nan"))], [torch.tensor(float("nan"))])
    assert harness.close(1e-5)(a, b)
    assert not harness.close(1e-7)(a, b)
    assert not harness.close(1.0)(torch.ones(3), torch.ones(4))
