"""`metazoo generate`: generated models are listed, graphed, embedded and compared like trained ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch
from typer.testing import CliRunner

import graphs
from metanets.batching import groups
from metanets.hyper import Problem, hypernetwork, hypernetworks
from metanets.hyper.population import generate, problem_of
from metanets.metanet import metanet
from metanets.statistics import weight_statistics
from modelzoo.cli import assemble
from modelzoo.errors import UserError
from modelzoo.family import Recipe
from modelzoo.store import Zoo
from modelzoo.training import PopulationConfig, populate

SHORT = Recipe(steps=60, batch_size=64, learning_rate=3e-3)


def short_problem(name: str = "mip") -> Problem:
    return problem_of(hypernetwork(name), None, None, {}, tiny=True)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Four trained perceptrons, and four that a hypernetwork generated."""
    path = tmp_path_factory.mktemp("generated") / "zoo"
    populate(path, PopulationConfig(family="mlp", models=4, tiny=True, steps=30), "trained", progress=False)
    found = hypernetwork("mip")
    generate(path, found, found.configure(found.tiny), short_problem(), 4, "generated", recipe=SHORT)
    return Zoo.open(path)


def test_the_parent_is_the_hypernetwork_and_can_be_trained_again(mixed: Zoo) -> None:
    population = mixed["generated"]
    assert population.info.parent == "hypernetwork mip"
    assert set(population.table["parent"]) == {"hypernetwork mip"}
    assert set(population.table["source"]) == {"generated"}
    training = population.info.training
    found = hypernetwork(training["hypernetwork"])
    problem = short_problem()
    module = found.build(problem.target(training["seed"]), found.configure(training["config"]), training["seed"])
    module.fit(problem, Recipe(**training["recipe"]), training["seed"])
    (again,) = module.samples(problem, 4, torch.Generator().manual_seed(training["seed"]))
    for name, value in population.stacked().items():
        torch.testing.assert_close(value, again.parameters[name])


def test_what_is_stored_computes_what_was_measured(mixed: Zoo) -> None:
    population = mixed["generated"]
    test = population.task.data().test
    for row, expected in enumerate(population.table["test_accuracy"]):
        with torch.no_grad():
            score = float(population.task.score(population.module(row)(*test.inputs), test.targets))
        assert score == pytest.approx(expected, abs=1e-5)
    assert population.table["test_accuracy"].min() > 0.5


def test_generated_and_trained_models_are_compared_in_one_table(mixed: Zoo) -> None:
    table = mixed.query("family == 'mlp'")
    assert set(table["source"]) == {"trained", "generated"}
    assert table["test_accuracy"].notna().all()
    assert mixed.verify() == []


def test_generated_models_are_graphed_embedded_and_have_weight_statistics(mixed: Zoo) -> None:
    data = []
    for name in ("trained", "generated"):
        population = mixed[name]
        graph = graphs.parameter_graph(population.module(0), population.example_inputs())
        assert graph.num_edges == sum(value[0].numel() for value in population.stacked().values())
        features = weight_statistics(population.stacked())
        assert np.isfinite(np.asarray(features)).all()
        data.append(graph)
    batch, found = Batch.from_data_list(data), metanet("graph_metanet")
    net = found.build(found.configure({**found.tiny, "outputs": 1}), 0).eval()
    net.calibrate([models for models, _ in groups(batch)])
    with torch.no_grad():
        trained, generated = net(batch).embeddings
    assert torch.stack([trained, generated]).isfinite().all()
    assert (trained - generated).abs().max() > 1e-6


@pytest.mark.parametrize(("family", "field"), [("mlp", "hidden"), ("small_cnn", "channels")])
def test_one_population_for_every_architecture(tmp_path: Path, family: str, field: str) -> None:
    found = hypernetwork("neumeta")
    problem = problem_of(found, family, "digits", {}, tiny=True)
    made = generate(
        tmp_path / "zoo", found, found.configure(found.tiny), problem, 3, recipe=Recipe(steps=2, batch_size=16)
    )
    assert [population.name for population in made] == [
        f"neumeta-{family.replace('_', '-')}-digits-{k}" for k in range(3)
    ]
    assert len({population.info.family_config[field][0] for population in made}) == 3
    assert set(Zoo.open(tmp_path / "zoo").query("source == 'generated'")["parent"]) == {"hypernetwork neumeta"}


def test_nothing_is_written_when_a_name_is_taken_or_wrong(mixed: Zoo, tmp_path: Path) -> None:
    found, before = hypernetwork("mip"), mixed.snapshot_id
    with pytest.raises(UserError, match="already has a population 'generated'"):
        generate(mixed.path, found, found.configure(found.tiny), short_problem(), 2, "generated", recipe=SHORT)
    with pytest.raises(UserError, match="at least one model"):
        generate(tmp_path / "zoo", found, found.configure(found.tiny), short_problem(), 0)
    with pytest.raises(UserError, match="not usable"):
        generate(tmp_path / "zoo", found, found.configure(found.tiny), short_problem(), 1, "a/b")
    assert mixed.snapshot_id == before
    assert not (tmp_path / "zoo").exists()


def test_commands(tmp_path: Path) -> None:
    run = CliRunner()
    listed = run.invoke(assemble(), ["hypernetworks", "--json"])
    assert [row["hypernetwork"] for row in json.loads(listed.stdout)] == list(hypernetworks())
    arguments = ["generate", str(tmp_path / "zoo"), "pranc", "--models", "1", "--tiny", "--steps", "2", "--json"]
    made = run.invoke(assemble(), [*arguments, "--target", "hidden=[8]", "--set", "chunk=8"])
    assert made.exit_code == 0, made.output
    (row,) = json.loads(made.stdout)
    population = Zoo.open(tmp_path / "zoo")[row["population"]]
    assert population.info.family_config["hidden"] == [8]
    assert population.info.training["config"]["chunk"] == 8
    wrong = run.invoke(assemble(), [*arguments, "--set", "chunk"])
    assert isinstance(wrong.exception, UserError)
