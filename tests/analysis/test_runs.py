"""Embedding maps and predictions of runs, against plain computations."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.embedding import METHODS, embedding_map
from analysis.predictions import model_names, predictions, run_metrics, run_table
from metanets import runs
from modelzoo.errors import UserError


def records(count: int) -> pd.DataFrame:
    return pd.DataFrame({"target": np.arange(count) % 3}, index=[f"zoo/{i}" for i in range(count)])


def test_pca_keeps_distances_of_plane_data() -> None:
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(40, 2)) @ np.linalg.qr(rng.normal(size=(6, 2)))[0].T
    found = embedding_map(plane, records(40))
    points = found.frame[list(found.axes)].to_numpy()
    apart = [np.linalg.norm(values[:, None] - values, axis=-1) for values in (plane, points)]
    np.testing.assert_allclose(apart[0], apart[1], atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_maps_keep_far_groups_apart(method: str) -> None:
    rng = np.random.default_rng(0)
    target = np.arange(30) % 3
    found = embedding_map(rng.normal(size=(30, 8)) + 40 * np.eye(3, 8)[target], records(30), method)
    points = found.frame[list(found.axes)].to_numpy()
    apart = np.linalg.norm(points[:, None] - points, axis=-1) + np.diag(np.full(30, np.inf))
    assert (target[apart.argmin(1)] == target).all()
    assert sum(len(trace.x) for trace in found.plot("target").data) == 30


def test_maps_sample_and_refuse() -> None:
    found = embedding_map(np.random.default_rng(0).normal(size=(50, 4)), records(50), most=20)
    assert (len(found.frame), found.of) == (20, 50)
    with pytest.raises(UserError, match="at least three"):
        embedding_map(np.zeros((2, 4)), records(2))
    with pytest.raises(UserError, match="not finite"):
        embedding_map(np.full((4, 4), np.nan), records(4))


def test_confusion_counts_every_model_of_the_split(small_runs: Path) -> None:
    run = runs.load(small_runs / "digit")
    found = predictions(run, "train")
    table = run.table[run.table["split"] == "train"]
    counts = found.confusion()
    assert counts.to_numpy().sum() == len(table)
    assert np.trace(counts.to_numpy()) == (table["target"] == table["prediction"]).sum()
    np.testing.assert_array_equal(found.plot().data[0].customdata, counts)


def test_regression_draws_a_point_a_model_and_the_diagonal(small_runs: Path) -> None:
    found = predictions(runs.load(small_runs / "accuracy"), "train")
    points, diagonal = found.plot().data
    np.testing.assert_array_equal(points.x, found.frame["target"])
    np.testing.assert_array_equal(points.y, found.frame["prediction"])
    assert list(diagonal.x) == list(diagonal.y)


def test_tables_of_runs(small_runs: Path) -> None:
    found = runs.list_runs(small_runs)
    assert set(run_table(found)["run"]) == {"digit", "accuracy"}
    metrics = run_metrics(found[0])
    assert metrics["models"].sum() == len(found[0].table)
    assert model_names(found[0].table)[0].endswith("/0")
