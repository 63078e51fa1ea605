"""`metazoo graph`, through the entry point that a shell calls."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import networkx as nx
import pytest

from modelzoo.family import family, parameter_count
from modelzoo.store import Zoo
from modelzoo.task import task


@pytest.fixture
def graph(metazoo: Any) -> Any:
    return partial(metazoo, "graph")


def test_a_family_is_counted_by_kind(graph: Any, tmp_path: Path) -> None:
    code, out, _ = graph("mlp", "--json", "--networkx", tmp_path / "mlp.graphml")
    report = json.loads(out)
    found = family("mlp")
    module = found.build(found.configure(task(found.task)), seed=0)
    assert code == 0
    assert report["num_edges"] == parameter_count(module)
    assert sum(row["edges"] for row in report["edges by kind"]) == report["num_edges"]
    assert sum(row["nodes"] for row in report["nodes by kind"]) == report["num_nodes"]
    assert [row["tensor"] for row in report["tensors"]] != []
    drawn = nx.read_graphml(tmp_path / "mlp.graphml")
    assert drawn.number_of_edges() == report["num_edges"]
    code, out, _ = graph("mlp")
    assert code == 0
    assert all(word in out for word in ("parameter graph of mlp", "nodes by kind", "layers.0.weight", "constant"))


def test_a_model_of_a_zoo_by_layers(graph: Any, small_zoo: Zoo, tmp_path: Path) -> None:
    population = small_zoo["siren-digits-inr"]
    number = population.table.index[3]
    code, out, _ = graph(
        small_zoo.path, f"{population.name}/{number}", "--levels", "--json", "--networkx", tmp_path / "l.graphml"
    )
    report = json.loads(out)
    assert code == 0
    assert "num_edges" not in report
    weights = population.stacked(slice(3, 4))
    for row in report["tensors"]:
        assert row["rms"] == pytest.approx(float(weights[row["tensor"]].double().square().mean().sqrt()))
    assert nx.read_graphml(tmp_path / "l.graphml").number_of_edges() == len(report["tensors"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("mlpp",), "did you mean 'mlp'"),
        (("mlp", "--max-edges", "100"), "more than max_edges=100"),
        (("mlp", "--networkx", "/nowhere/at/all.graphml"), "is not there"),
        (("/nowhere", "mlp/0"), "/nowhere"),
    ],
)
def test_errors_are_one_sentence(graph: Any, arguments: tuple[str, ...], words: str) -> None:
    code, out, error = graph(*arguments)
    assert code in (1, 2)
    assert words in error
    assert "Traceback" not in out + error
