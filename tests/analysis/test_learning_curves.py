"""Learning curves of several runs: what is read, the table, the figure, the command."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis.learning_curves import LearningCurves
from analysis.theme import CATEGORICAL
from metanets.runs import METRICS, find_curves
from modelzoo.errors import UserError
from tests.conftest import Command

DIGIT = {"train_loss": [2.0, 1.0, 0.5], "validation_loss": [2.0, 1.2, 1.4], "validation_accuracy": [0.2, 0.6, 0.7]}
TAU = {"train_loss": [1.0, 0.8], "validation_loss": [1.0, 0.9], "validation_r2": [0.0, 0.1], "validation_tau": [0.1, 0.3]}  # fmt: skip


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A folder as a leaderboard writes it; a run within a run is no run of the board."""
    runs = {"label/unf/seed-0": DIGIT, "accuracy/unf/seed-0": TAU, "accuracy/nfn/seed-1": TAU, "label/unf/seed-0/baselines/flat_mlp": TAU}  # fmt: skip
    for name, columns in runs.items():
        folder = tmp_path / "board" / name
        folder.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(columns).rename_axis("epoch").reset_index().to_csv(folder / METRICS, index=False)
    return tmp_path / "board"


def test_runs_are_found_and_named_by_what_they_differ_in(board: Path) -> None:
    assert list(find_curves([board])) == ["accuracy/nfn/seed-1", "accuracy/unf/seed-0", "label/unf/seed-0"]
    assert list(find_curves([board / "accuracy"])) == ["nfn/seed-1", "unf/seed-0"]
    assert list(find_curves([board / "label" / "unf" / "seed-0"])) == ["seed-0"]
    both = find_curves([board / "label" / "unf" / "seed-0", board / "accuracy" / "unf" / "seed-0"])
    assert list(both) == ["label/unf/seed-0", "accuracy/unf/seed-0"]
    assert both["label/unf/seed-0"]["validation_accuracy"].tolist() == DIGIT["validation_accuracy"]


def test_the_table_shows_the_epoch_that_is_kept(board: Path) -> None:
    table = LearningCurves(find_curves([board])).to_frame().set_index("run")
    assert table.loc["label/unf/seed-0", ["epochs", "best epoch", "validation loss", "accuracy"]].tolist() == [3, 1, 1.2, 0.6]  # fmt: skip
    assert table["accuracy"].isna().tolist() == [True, True, False]
    diverged = LearningCurves({"run": pd.DataFrame({"epoch": [0, 1], "validation_loss": [float("nan")] * 2})})
    assert diverged.to_frame()["best epoch"].tolist() == [1]


def test_a_run_has_one_colour_in_all_panels(board: Path) -> None:
    found = LearningCurves(find_curves([board]))
    assert found.metrics == ["validation_r2", "validation_tau", "validation_accuracy"]
    drawing = found.plot()
    colours = {(trace.name, trace.line.color) for trace in drawing.data}
    assert len(colours) == len({name for name, _ in colours}) == len({colour for _, colour in colours}) == 3
    own = [trace for trace in drawing.data if trace.name == "label/unf/seed-0"]
    assert [(list(trace.y), trace.line.dash, trace.showlegend, trace.xaxis) for trace in own] == [
        (DIGIT["validation_loss"], "solid", True, "x"),
        (DIGIT["train_loss"], "dot", False, "x"),
        (DIGIT["validation_accuracy"], "solid", False, "x4"),
    ]
    many = LearningCurves({str(i): pd.DataFrame({"epoch": [0], **{k: v[:1] for k, v in TAU.items()}}) for i in range(2 * len(CATEGORICAL))})  # fmt: skip
    assert len({trace.line.color for trace in many.plot().data}) == 2 * len(CATEGORICAL)


def test_the_command_writes_the_figure(board: Path, metazoo: Callable[..., Command], tmp_path: Path) -> None:
    done = metazoo("curves", board / "accuracy", board / "label", "--out", tmp_path / "curves.html", "--json")
    assert done.code == 0, done.error
    assert [row["run"] for row in done.json] == ["accuracy/nfn/seed-1", "accuracy/unf/seed-0", "label/unf/seed-0"]
    assert "validation" in (tmp_path / "curves.html").read_text()
    for arguments, said in (
        ((tmp_path / "none",), "there is no folder"),
        ((tmp_path,), None),
        ((board, "--out", tmp_path / "curves.png"), "ends in .html"),
        ((board, "--out", tmp_path / "none" / "curves.html"), "is not there"),
    ):
        failed = metazoo("curves", *arguments)
        assert (failed.code != 0) == (said is not None)
        assert (said or "") in failed.error


def test_folders_without_curves_and_broken_files_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no learning curves"):
        find_curves([tmp_path])
    for text in ("", "epoch,loss\n0,1\n", "epoch,validation_loss\n"):
        (tmp_path / METRICS).write_text(text)
        with pytest.raises(UserError, match=r"metrics.csv' holds no learning curves; repeat"):
            find_curves([tmp_path])
