"""Every page runs without an exception, an interaction changes what is shown, and mistakes in a link get a sentence."""

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import app
from app.settings import RUNS_VARIABLE, ZOO_VARIABLE
from modelzoo.store import Zoo

MAIN = Path(app.__file__).with_name("main.py")
PAGES = ("zoo", "model", "metanet", "symmetry", "analysis")
Opened = Callable[..., AppTest]


@pytest.fixture
def opened(small_zoo: Zoo, small_runs: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Open a page of the app on the small zoo: `opened(page, **query)`."""
    monkeypatch.setenv(ZOO_VARIABLE, small_zoo.path)
    monkeypatch.setenv(RUNS_VARIABLE, str(small_runs))
    return at


def at(page: str, **query: str) -> AppTest:
    """The page after its first run."""
    test = AppTest.from_file(str(MAIN), default_timeout=60)
    test.query_params = dict(query)
    return (test if page == "zoo" else test.switch_page(f"views/{page}.py")).run()


def text(test: AppTest) -> str:
    """Everything that is written on the page."""
    parts = (*test.markdown, *test.caption, *test.success, *test.error, *test.info)
    return "\n".join(str(element.value) for element in parts)


def ends(test: AppTest, page: str) -> bool:
    """Whether the page was drawn to its end."""
    return bool(test.caption) and str(test.caption[-1].value).startswith(page.capitalize())


@pytest.mark.parametrize("page", PAGES)
def test_every_page_runs_to_its_end(opened: Opened, page: str) -> None:
    test = opened(page)
    assert not test.exception
    assert not test.error
    assert ends(test, page)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_says_what_to_do_without_a_zoo(monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    monkeypatch.delenv(ZOO_VARIABLE, raising=False)
    monkeypatch.delenv(RUNS_VARIABLE, raising=False)
    test = at(page)
    assert not test.exception
    assert ends(test, page)
    # families have a group and a tangent kernel without any zoo
    assert page in ("symmetry", "analysis") or "metazoo" in test.info[0].value


@pytest.mark.parametrize("page", ["zoo", "model", "metanet"])
def test_a_zoo_that_is_gone_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, page: str) -> None:
    monkeypatch.setenv(ZOO_VARIABLE, str(tmp_path / "gone"))
    monkeypatch.delenv(RUNS_VARIABLE, raising=False)
    test = at(page)
    assert not test.exception
    assert page == "metanet" or "there is no zoo" in test.error[0].value


def test_an_empty_zoo_tells_how_to_fill_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Zoo.create(tmp_path / "zoo")
    monkeypatch.setenv(ZOO_VARIABLE, str(tmp_path / "zoo"))
    for page in ("zoo", "model"):
        test = at(page)
        assert not test.exception
        assert "metazoo populate" in test.info[0].value


def test_zoo_filter_changes_the_count_and_the_table(opened: Opened) -> None:
    test = opened("zoo")
    assert "**28** of 28 models" in text(test)
    test.multiselect(key="filter").set_value(["family == 'siren'"]).run()
    assert "**16** of 28 models" in text(test)
    assert len(test.dataframe[0].value) == 16


@pytest.mark.parametrize(("family", "score"), [("siren", "test_psnr"), ("small_cnn", "test_accuracy")])
def test_zoo_draws_a_score_that_the_selection_has(opened: Opened, family: str, score: str) -> None:
    test = opened("zoo", filter=f"family == '{family}'")
    assert f'"text":"{score}"' in test.get("plotly_chart")[0].proto.spec.replace(" ", "")


def test_zoo_filter_that_cannot_be_read_is_named(opened: Opened) -> None:
    test = opened("zoo", filter="famly == 'siren'")
    assert "did you mean 'family'?" in test.error[0].value
    assert not test.exception


def test_a_bar_that_is_clicked_becomes_a_filter(opened: Opened) -> None:
    test = opened("zoo")
    test.session_state["chart:family:"] = {"selection": {"points": [{"x": 1}], "box": []}}
    test.run()
    assert test.multiselect(key="filter").value == ["family == 'small_cnn'"]
    assert "**12** of 28 models" in text(test)


def test_a_row_that_is_chosen_offers_its_model(opened: Opened, small_zoo: Zoo) -> None:
    test = opened("zoo")
    test.session_state["models"] = {"selection": {"rows": [3], "columns": [], "cells": []}}
    test.run()
    (link,) = test.get("page_link")
    assert link.proto.label == f"Open {small_zoo.table().index[3]}"
    assert link.proto.query_string == "population=siren-digits-inr&model=3"


@pytest.mark.parametrize("view", ["Overview", "Weights", "Population", "Spectrum", "Graph"])
@pytest.mark.parametrize("population", ["siren-digits-inr", "small-cnn-digits"])
def test_every_view_of_a_model_draws(opened: Opened, population: str, view: str) -> None:
    test = opened("model", population=population, model="2", view=view)
    assert not test.exception
    assert not test.error
    assert test.button_group(key="view").value == view
    assert test.get("plotly_chart")
    assert ends(test, "model")


def test_model_of_the_link_is_shown_and_the_next_one_differs(opened: Opened, small_zoo: Zoo) -> None:
    test = opened("model", population="siren-digits-inr", model="2")
    table = small_zoo["siren-digits-inr"].table
    assert {metric.label: metric.value for metric in test.metric}["seed"] == str(table["seed"].iloc[2])
    test.number_input(key="model").set_value(5).run()
    assert {metric.label: metric.value for metric in test.metric}["seed"] == str(table["seed"].iloc[5])


def test_checkpoint_changes_the_weights(opened: Opened) -> None:
    test = opened("model", population="siren-digits-inr", view="Weights")
    before = test.get("plotly_chart")[0].proto.spec
    test.select_slider(key="step siren-digits-inr").set_value(0).run()
    assert test.get("plotly_chart")[0].proto.spec != before


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"population": "sirens"}, "did you mean 'siren-digits-inr'?"),
        ({"population": "siren-digits-inr", "model": "99"}, "has no model 99; its ids go from 0 to 15"),
    ],
)
def test_unknown_model_in_a_link_is_one_sentence(opened: Opened, query: dict[str, str], sentence: str) -> None:
    test = opened("model", **query)
    assert not test.exception
    assert sentence in test.error[0].value
    assert ends(test, "model")


def test_metanet_shows_the_metrics_of_the_chosen_run(opened: Opened) -> None:
    test = opened("metanet", run="digit")
    assert "predicts **label**" in text(test)
    assert "accuracy" in test.dataframe[0].value.columns
    test.selectbox(key="run").set_value("accuracy").run()
    assert "predicts **test_accuracy**" in text(test)


def test_metanet_split_changes_what_is_drawn(opened: Opened) -> None:
    test = opened("metanet", run="accuracy", split="train")
    before = test.get("plotly_chart")[1].proto.spec
    test.button_group(key="split").set_value("test").run()
    assert test.get("plotly_chart")[1].proto.spec != before


def test_metanet_point_that_is_clicked_offers_its_model(opened: Opened) -> None:
    test = opened("metanet", run="accuracy")
    point = {"customdata": "small-cnn-digits/4"}
    test.session_state["embeddings"] = {"selection": {"points": [point], "box": [], "lasso": []}}
    test.run()
    (link,) = test.get("page_link")
    assert link.proto.query_string == "population=small-cnn-digits&model=4"


def test_metanet_learning_curves_of_other_runs_stand_beside(opened: Opened) -> None:
    test = opened("metanet", run="accuracy")
    charts = test.get("plotly_chart")
    assert '"name":"accuracy"' in charts[-1].proto.spec
    assert '"name":"digit"' not in charts[-1].proto.spec
    test.multiselect(key="beside").set_value(["digit"]).run()
    assert '"name":"digit"' in test.get("plotly_chart")[-1].proto.spec


def test_metanet_unknown_run_is_one_sentence(opened: Opened) -> None:
    test = opened("metanet", run="digits")
    assert not test.exception
    assert "did you mean 'digit'?" in test.error[0].value


def test_symmetry_slider_moves_weights_and_not_the_function(opened: Opened) -> None:
    test = opened("symmetry", family="mlp")
    assert "leave the function unchanged" in test.success[0].value
    assert "t = 1.00" in text(test)
    test.slider(key="t").set_value(-1.5).run()
    assert "t = -1.50" in text(test)
    assert not test.exception


def test_symmetry_button_swaps_two_neurons(opened: Opened) -> None:
    test = opened("symmetry", family="siren", factor="layers.0.weight[0]")
    assert "0 ↔ 1 in S_16" in text(test)
    next(button for button in test.button if "Swap" in button.label).click().run()
    first, second = (test.number_input(key=key).value for key in ("first", "second"))
    assert f"{first} ↔ {second} in S_16" in text(test)


def test_symmetry_button_draws_other_signs(opened: Opened) -> None:
    test = opened("symmetry", family="lstm", factor="sign layers.0.weight_ih[0]")
    assert "random element 0 of Z2^12" in text(test)
    assert "the function by" in text(test)
    next(button for button in test.button if "Draw" in button.label).click().run()
    assert "random element 1 of Z2^12" in text(test)
    assert not test.exception


def test_symmetry_of_an_unknown_factor_is_one_sentence(opened: Opened) -> None:
    test = opened("symmetry", family="mlp", factor="scale layer.0.weight[0]")
    assert not test.exception
    assert "did you mean 'scale layers.0.weight[0]'?" in test.error[0].value


def test_symmetry_of_a_model_of_the_zoo_is_checked_again_on_demand(opened: Opened) -> None:
    test = opened("symmetry", of="Model of the zoo", population="small-cnn-digits", model="1")
    before = test.success[0].value
    assert "leave the function unchanged" in before
    next(button for button in test.button if "Check" in button.label).click().run()
    assert "leave the function unchanged" in test.success[0].value
    assert not test.exception


def test_symmetry_of_an_unknown_family_is_one_sentence(opened: Opened) -> None:
    test = opened("symmetry", family="siern")
    assert not test.exception
    assert "did you mean 'siren'?" in test.error[0].value


@pytest.mark.parametrize(
    ("query", "columns"),
    [
        ({"analysis": "tangent_kernel", "family": "mlp"}, ["parameters", "method"]),
        ({"analysis": "weight_matching", "population": "siren-digits-inr"}, []),
        ({"analysis": "exact_permutations"}, []),
    ],
)
def test_an_analysis_runs_when_asked(opened: Opened, query: dict[str, str], columns: list[str]) -> None:
    """One of a module, one of a population, one of nothing."""
    test = opened("analysis", **query)
    assert not test.get("plotly_chart")
    test.button[0].click().run()
    assert not test.exception
    assert not test.error
    assert test.get("plotly_chart")
    assert set(columns) <= set(test.dataframe[0].value.columns)


def test_an_option_that_does_not_fit_is_one_sentence(opened: Opened) -> None:
    test = opened("analysis", analysis="weight_matching", population="siren-digits-inr")
    test.text_input(key="weight_matching seed").set_value("many").run()
    assert not test.exception
    assert "'seed'" in test.error[0].value


def test_an_unknown_analysis_in_a_link_is_one_sentence(opened: Opened) -> None:
    test = opened("analysis", analysis="tangent_kernels")
    assert not test.exception
    assert "did you mean 'tangent_kernel'?" in test.error[0].value
