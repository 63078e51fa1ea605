"""Metrics against their definitions, and against other implementations."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from sklearn.metrics import r2_score

from metanets.scores import scores, split_scores


@pytest.mark.parametrize("seed", range(5))
def test_regression_metrics_are_those_of_scipy_and_sklearn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    targets = generator.normal(size=50).round(1)  # with ties
    predictions = (targets + generator.normal(size=50)).round(1).astype(np.float32)
    found = scores(targets, predictions, "regression")
    assert found["r2"] == pytest.approx(r2_score(targets, predictions), abs=1e-12)
    assert found["tau"] == pytest.approx(kendalltau(targets, predictions.astype(float)).statistic, abs=1e-12)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the first draw waits for a busy machine
@given(st.permutations(range(8)))
def test_tau_counts_pairs_in_order(order: list[int]) -> None:
    pairs = list(combinations(range(8), 2))
    expected = sum(1 if order[i] < order[j] else -1 for i, j in pairs) / len(pairs)
    assert scores(np.arange(8), np.array(order), "regression")["tau"] == pytest.approx(expected)


@settings(deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=4, max_size=20, unique=True))
def test_tau_sees_order_alone_and_r2_the_values(values: list[float]) -> None:
    targets = np.linspace(0, 1, len(values))
    ordered = np.sort(values)
    assert scores(targets, ordered, "regression")["tau"] == pytest.approx(1)
    assert scores(targets, -ordered, "regression")["tau"] == pytest.approx(-1)
    assert scores(targets, targets, "regression")["r2"] == 1
    assert scores(targets, np.full(len(values), targets.mean()), "regression")["r2"] == pytest.approx(0, abs=1e-12)


def test_accuracy_counts_equal_entries_of_any_type() -> None:
    assert scores(np.array(["a", "b", "b"]), np.array(["a", "b", "a"]), "classification") == {"accuracy": 2 / 3}
    assert np.isnan(scores(np.array([]), np.array([]), "classification")["accuracy"])


@pytest.mark.parametrize("targets", [[], [1.0], [2.0, 2.0, 2.0]])
def test_without_variation_there_is_no_score(targets: list[float]) -> None:
    found = scores(np.array(targets), np.arange(len(targets)), "regression")
    assert np.isnan(found["r2"])
    assert np.isnan(found["tau"])


def test_every_split_has_its_own_row() -> None:
    split = ["train"] * 3 + ["test"] * 2
    table = pd.DataFrame({"split": split, "target": [1, 2, 3, 1, 2], "prediction": [1, 2, 3, 2, 1]})
    found = split_scores(table, "classification")
    assert found["train"] == {"models": 3, "accuracy": 1}
    assert found["test"] == {"models": 2, "accuracy": 0}
    assert found["validation"]["models"] == 0
