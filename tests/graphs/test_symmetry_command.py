"""`metazoo symmetry`, through the entry point that a shell calls."""

import json
from functools import partial
from typing import Any

import pytest
from torch import nn

from modelzoo.store import Zoo

HERE = "tests.graphs.test_symmetry_command"


def small() -> nn.Module:
    """2-4-1 with tanh: complete, no continuous symmetry."""
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))


def needs_an_argument(width: int) -> nn.Module:
    return nn.Linear(2, width)


def no_module() -> int:
    return 3


@pytest.fixture
def symmetry(metazoo: Any) -> Any:
    return partial(metazoo, "symmetry")


def test_a_callable_prints_its_table_the_verdict_and_completeness(symmetry: Any) -> None:
    code, out, err = symmetry(f"{HERE}:small", "--input", "5x2", "--complete")
    assert (code, err) == (0, "")
    for text in ("S_4", "Z2^4", "0.weight[0], 0.bias[0], 2.weight[1]", "dimension 0, log order 5.95"):
        assert text in out
    assert "verified: 3 random elements leave the function unchanged: relative error" in out
    assert "complete: 17 parameters − functional dimension 17" in out


def test_json_says_the_same(symmetry: Any) -> None:
    code, out, _ = symmetry(f"{HERE}:small", "--input", "5x2", "--complete", "--json")
    report = json.loads(out)
    assert code == 0
    assert sorted(factor["group"] for factor in report["factors"]) == ["S_4", "Z2^4"]
    assert (report["dimension"], report["unknown ops"], report["verdict"]["passed"]) == (0, [], True)
    assert report["verdict"]["error"] < 1e-6 < report["verdict"]["change"]
    complete = report["completeness"]
    assert (complete["parameters"], complete["rank"], complete["orbit"], complete["hidden"]) == (17, 17, 0, 0)


def test_a_callable_need_not_be_checked(symmetry: Any) -> None:
    code, out, _ = symmetry(f"{HERE}:small", "--input", "5x2", "--no-verify")
    assert code == 0
    assert "not verified" in out
    report = json.loads(symmetry(f"{HERE}:small", "--input", "5x2", "--no-verify", "--json")[1])
    assert report["verdict"] is report["completeness"] is None


def test_a_family_at_its_smallest(symmetry: Any) -> None:
    code, out, _ = symmetry("siren", "--tiny", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["subject"] == "siren"
    assert report["verdict"]["passed"]
    assert {factor["group"][0] for factor in report["factors"]} >= {"S", "Z"}


def test_a_model_of_a_zoo(symmetry: Any, small_zoo: Zoo) -> None:
    code, out, _ = symmetry(small_zoo.path, "siren-digits-inr/0", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["verdict"]["passed"]
    family = json.loads(symmetry("siren", "--tiny", "--json")[1])
    assert [factor["group"] for factor in report["factors"]] == [factor["group"] for factor in family["factors"]]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["sirens"], "sirens"),
        ([f"{HERE}:small"], "needs the shape of every input"),
        ([f"{HERE}:small", "--input", "5by2"], "'5by2' is no shape"),
        ([f"{HERE}:small", "--input", "5x3"], "torch.export refuses"),
        ([f"{HERE}:large", "--input", "5x2"], "has no 'large'"),
        ([f"{HERE}:needs_an_argument", "--input", "5x2"], "without arguments failed"),
        ([f"{HERE}:no_module", "--input", "5x2"], "returned 'int'"),
        (["no_such_package:thing", "--input", "2"], "cannot import 'no_such_package'"),
        (["siren", "--input", "5x2"], "takes its inputs from its task"),
        (["/no/such/zoo", "siren/0"], "/no/such/zoo"),
    ],
)
def test_bad_input_is_one_sentence(symmetry: Any, arguments: list[str], text: str) -> None:
    code, out, err = symmetry(*arguments)
    assert code != 0
    assert text in err
    assert "Traceback" not in err
    assert out == ""
