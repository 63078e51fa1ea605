"""Run folders: what is written comes back, and what is unfinished or damaged says so."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metanets import runs
from metanets.runs import Run, RunRecord
from modelzoo.errors import UserError


def begun(path: Path) -> Run:
    run = Run(path, RunRecord(
        metanet="graph_metanet", config={"width": 8}, zoo="zoo", populations=("a", "b"), snapshot="S", target="label",
        kind="classification", classes=(0, 1), training={"epochs": 3}, seed=7, created="2025-01-01T00:00:00+00:00",
    ))  # fmt: skip
    run.write()
    return run


def finished(path: Path) -> Run:
    table = pd.DataFrame(
        {"population": ["a", "a", "b"], "id": [0, 1, 0], "split": ["train", "train", "test"], "target": [0, 1, 1],
         "prediction": [0, 0, 1], "probability 0": [0.9, 0.6, 0.1], "probability 1": [0.1, 0.4, 0.9]}
    )  # fmt: skip
    run = begun(path)
    (path / runs.WEIGHTS).touch()
    return run.finish(table, np.arange(6, dtype=np.float32).reshape(3, 2), {"test": {"accuracy": 1.0}}, 2.5)


def test_a_run_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = finished(tmp_path / "run")
    loaded = runs.load(tmp_path / "run")
    assert loaded.record == written.record
    assert loaded.record.finished is not None
    assert loaded.record.counts == {"train": 2, "test": 1}
    assert loaded.table["probability 1"].tolist() == [0.1, 0.4, 0.9]
    np.testing.assert_array_equal(loaded.embeddings, np.arange(6, dtype=np.float32).reshape(3, 2))


def test_the_table_and_the_embeddings_must_have_one_row_a_model(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    table = pd.DataFrame({key: [0, 0] for key in runs.KEYS})
    for columns, embeddings in ((list(runs.KEYS), np.zeros((3, 2))), (list(runs.KEYS)[::-1], np.zeros((2, 2)))):
        with pytest.raises(ValueError, match="one row per embedding"):
            run.finish(table[columns], embeddings, {}, 0.0)
    assert not (run.path / runs.PREDICTIONS).exists()


def test_only_finished_whole_runs_are_listed_newest_first(tmp_path: Path) -> None:
    finished(tmp_path / "old")
    finished(tmp_path / "deep" / "new")
    record = runs.load(tmp_path / "deep" / "new").record.model_copy(update={"finished": "2999-01-01T00:00:00+00:00"})
    Run(tmp_path / "deep" / "new", record).write()
    begun(tmp_path / "begun")
    (finished(tmp_path / "damaged").path / runs.EMBEDDINGS).unlink()
    assert [run.name for run in runs.list_runs(tmp_path)] == ["new", "old"]
    assert [run.name for run in runs.list_runs(tmp_path / "old")] == ["old"]
    assert runs.list_runs(tmp_path / "missing") == []


def test_each_fault_is_one_sentence(tmp_path: Path) -> None:
    (finished(tmp_path / "damaged").path / runs.EMBEDDINGS).unlink()
    begun(tmp_path / "begun")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / runs.RECORD).write_text("{}")
    for name, said in (("damaged", "lacks embeddings.npy"), ("begun", "not finished"), ("foreign", "not the record"), ("missing", "not a run")):  # fmt: skip
        with pytest.raises(UserError, match=said):
            runs.load(tmp_path / name)
