"""Selections made in charts are expressions: whatever is drawn, the query selects exactly the rows that were shown."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.crossfilter import (
    LABEL_ROOM,
    bin_edges,
    chartable,
    cloud,
    distribution,
    is_category,
    kept,
    names_in,
    replaced,
)

numbers = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=2, max_size=60)


@given(numbers)
def test_all_bins_together_select_every_row(values: list[float]) -> None:
    table = pd.DataFrame({"score": values})
    counts = distribution(table, table, "score")
    assert counts.total.sum() == len(values)
    everything = kept(table, [counts.expression(range(len(counts.total)))])
    assert len(everything) == len(values)


@given(numbers, st.integers(0, 23))
def test_a_bin_selects_what_it_counts(values: list[float], place: int) -> None:
    table = pd.DataFrame({"score": values})
    counts = distribution(table, table, "score")
    place %= len(counts.total)
    assert len(kept(table, [counts.expression([place])])) == counts.total[place]


@given(st.lists(st.sampled_from(["a", "b c", "d'e", ""]), min_size=1, max_size=30))
def test_every_category_selects_its_rows(values: list[str]) -> None:
    table = pd.DataFrame({"family": values})
    counts = distribution(table, table, "family")
    for place, value in enumerate(counts.values):
        assert len(kept(table, [counts.expression([place])])) == values.count(value) == counts.total[place]


def test_selection_is_counted_beside_the_whole() -> None:
    table = pd.DataFrame({"split": ["train", "test", "train"], "score": [0.1, 0.5, np.nan]})
    counts = distribution(table, table[table["split"] == "train"], "score")
    assert (counts.total.sum(), counts.selected.sum(), counts.missing) == (2, 1, 1)


def test_box_in_the_cloud_selects_its_points() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.random(200), "y": rng.random(200)})
    points = cloud(table, table, "x", "y")
    rows = kept(table, points.expressions((0.6, 0.2), (0.1, 0.5)))
    expected = table[table["x"].between(0.2, 0.6) & table["y"].between(0.1, 0.5)]
    pd.testing.assert_frame_equal(rows, expected)


def test_cloud_samples_and_says_so() -> None:
    table = pd.DataFrame({"x": range(50), "y": range(50)})
    points = cloud(table, table[:10], "x", "y", most=20)
    assert (len(points.frame), points.of) == (20, 50)
    assert points.frame["selected"].sum() < 10


def test_a_new_selection_replaces_only_the_one_about_the_same_column() -> None:
    old = ["1 <= x < 2", "family == 'siren'", "x > 0 and y > 0"]
    assert replaced(old, {"x"}, ["3 <= x < 4"]) == ["family == 'siren'", "x > 0 and y > 0", "3 <= x < 4"]
    assert names_in("x > 0 and y > 0") == {"x", "y"}
    assert names_in("x >") == set()


@pytest.mark.parametrize(("low", "high", "logarithmic"), [(1e-4, 1e-1, True), (0.2, 0.9, False), (0.0, 50.0, False)])
def test_wide_positive_ranges_are_binned_logarithmically(low: float, high: float, logarithmic: bool) -> None:
    edges, found = bin_edges(np.linspace(low, high, 40) if not logarithmic else np.geomspace(low, high, 40))
    assert found is logarithmic
    assert edges[0] <= low
    assert edges[-1] >= high
    assert (np.diff(edges) > 0).all()


def test_columns_worth_a_chart_vary_and_scores_come_first() -> None:
    table = pd.DataFrame({"seed": [1, 2], "learning_rate": [0.1, 0.2], "task": ["a", "a"], "test_psnr": [1.0, 2.0]})
    assert chartable(table) == ["test_psnr", "learning_rate", "seed"]
    assert is_category(pd.Series([True, False]))
    assert not is_category(pd.Series([0.5, 1.5]))


@pytest.mark.parametrize("names", [["cnn", "lstm-adding", "siren-digits-inr"], [f"population-number-{i}" for i in range(9)], ["a"], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]])  # fmt: skip
def test_every_category_has_a_label_that_fits(names: list[str]) -> None:
    table = pd.DataFrame({"population": names})
    axis = distribution(table, table, "population").plot().layout.xaxis
    assert len(axis.ticktext) == len(axis.tickvals) == len(names)
    widest = [max(map(len, label.split("<br>"))) for label in axis.ticktext]
    assert max(widest) <= 12 if axis.tickangle else sum(widest) <= LABEL_ROOM


def test_small_numbers_leave_room_for_each_other() -> None:
    table = pd.DataFrame({"test_mse": np.linspace(0.00035, 0.00182, 30)})
    axis = distribution(table, table, "test_mse").plot().layout.xaxis
    assert axis.tickangle == 0
    assert len(axis.ticktext) >= 2
    assert sum(map(len, axis.ticktext)) <= LABEL_ROOM
