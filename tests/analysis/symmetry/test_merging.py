"""Merging of independently trained models: barriers with and without alignment, REPAIR, batch norm, planes, soups."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from analysis.symmetry.activation_matching import batches_of
from analysis.symmetry.merging import average, barrier, evaluation_of, interpolate
from analysis.symmetry.mode_connectivity import connectivity
from analysis.symmetry.model_soup import greedy
from analysis.symmetry.repair import repair, reset_batch_norm, sites
from analysis.symmetry.weight_matching import match_weights, state
from graphs import SymmetryGroup, symmetry, trace
from graphs.interpreter import interpret
from modelzoo.errors import UserError
from modelzoo.store import Population, Zoo
from modelzoo.training import PopulationConfig, populate

Tensors = dict[str, Tensor]
CONFIGS = {"mlp": {"family_config": {"hidden": [64]}, "steps": 300}, "small_cnn": {"steps": 300}}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Two independently trained models of each kind, on digits."""
    path = tmp_path_factory.mktemp("merging") / "zoo"
    for name, fields in CONFIGS.items():
        populate(path, PopulationConfig.read(family=name, models=2, **fields), name, progress=False)
    return Zoo.open(path)


@cache
def group_of(population: Population) -> SymmetryGroup:
    return symmetry(population.template(), population.example_inputs(), verify=False)


@pytest.mark.parametrize("name", CONFIGS)
def test_alignment_takes_most_of_the_barrier_away(name: str, zoo: Zoo) -> None:
    population = zoo[name]
    evaluation, group = evaluation_of(population), group_of(population)
    first, second = state(population, 0), state(population, 1)
    assert evaluation(first)[1] > 0.85
    aligned = match_weights(group, first, second)
    assert aligned.distance < np.linalg.norm(aligned.before)
    found = connectivity(evaluation, group, first, second, aligned.tensors, batches_of(population, group, 60), points=5)
    heights = found.barriers
    assert heights["as trained"] > 0.05, "control: without alignment there is a barrier"
    assert heights["aligned"] < 0.6 * heights["as trained"]
    assert found.losses[0, -1] == pytest.approx(found.losses[1, -1], rel=1e-3), "the aligned model computes the same"
    print(name, heights, "accuracy in the middle", found.scores[:, 2])


def test_repair_restores_the_statistics_of_the_parents(zoo: Zoo) -> None:
    population = zoo["mlp"]
    group, module = group_of(population), population.template()
    first, second = state(population, 0), state(population, 1)
    batches = batches_of(population, group, 60)
    merged = interpolate(first, second, 0.5)
    done = repair(module, group.program, (first, second), merged, batches)
    found, skipped = sites(group.program)
    assert done.layers == tuple(site.weight for site in found) == ("layers.0.weight",)
    assert "leaves the module" in skipped[0]

    def statistics(tensors: Tensors) -> tuple[Tensor, Tensor]:
        rows = torch.cat([interpret(group.program, tensors, [x.double() for x in b])[found[0].value] for b in batches])
        return rows.mean(0), rows.std(0, correction=0)

    goal = [(a + b) / 2 for a, b in zip(statistics(first), statistics(second), strict=True)]
    after, before = statistics(done.tensors), statistics(merged)
    for part in range(2):
        torch.testing.assert_close(after[part], goal[part], rtol=1e-4, atol=1e-4)
    assert (before[1] < 0.95 * goal[1]).double().mean() > 0.5, "control: averaging shrinks the variance"


def test_batch_norm_statistics_are_those_of_the_data() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).eval()
    tensors = dict(module.state_dict())
    batches = [(torch.randn(2, 1, 6, 6) + 1,) for _ in range(8)]
    found = reset_batch_norm(module, tensors, batches)
    values = module[0](torch.cat([x for (x,) in batches])).detach()
    torch.testing.assert_close(found["1.running_mean"], values.mean((0, 2, 3)))
    torch.testing.assert_close(found["1.running_var"], values.var((0, 2, 3)))
    assert torch.equal(module[1].running_mean, torch.zeros(4)), "the module is left as it is"
    _, skipped = sites(trace(module, batches[0]))
    assert any("batch norm" in reason for reason in skipped)


def test_barrier_and_average() -> None:
    times = np.linspace(0, 1, 5)
    assert barrier(np.array([1.0, 3, 5, 4, 2]), times) == 3.5
    assert barrier(times, times) == 0
    a, b = {"w": torch.ones(2), "n": torch.tensor(3)}, {"w": torch.full((2,), 3.0), "n": torch.tensor(5)}
    assert torch.equal(average([a, b])["w"], torch.full((2,), 2.0))
    assert average([a, b])["n"] == 3
    assert torch.equal(interpolate(a, b, 0.25)["w"], torch.full((2,), 1.5))
    with pytest.raises(UserError, match="cannot be averaged"):
        average([a, {"w": torch.ones(3), "n": torch.tensor(3)}])


def test_a_greedy_soup_is_never_worse_than_its_best_model(zoo: Zoo) -> None:
    population = zoo["mlp"]
    evaluation = evaluation_of(population, "train")
    models = [state(population, row) for row in range(2)]
    noisy = {name: tensor + 0.5 * torch.randn_like(tensor) for name, tensor in models[0].items()}
    chosen = greedy(evaluation, [*models, noisy])
    assert 2 not in chosen
    best = min(evaluation(model)[0] for model in models)
    assert evaluation(average([[*models, noisy][k] for k in chosen]))[0] <= best


def test_models_of_different_instances_have_no_common_loss(small_zoo: Zoo) -> None:
    with pytest.raises(UserError, match="different instances"):
        evaluation_of(small_zoo["siren-digits-inr"])
