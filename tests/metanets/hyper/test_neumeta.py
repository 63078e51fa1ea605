"""Neural Metamorphosis: smoothing, the coordinates, and networks of widths that were never trained."""

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import nn

import graphs
from graphs.factors import PermutationFactor
from graphs.symmetry import permutation_group
from metanets.hyper import Problem, Target, hypernetwork
from metanets.hyper.neumeta import NeuMeta, NeuMetaConfig, _units, hamiltonian_path, smoothed
from metanets.hyper.width_sweep import at_width, by_magnitude, generated, score, trained, width_sweep
from modelzoo.errors import UserError
from modelzoo.family import Recipe, family
from modelzoo.task import task


def problem(name: str = "mlp", **fields: object) -> Problem:
    found, digits = family(name), task("digits")
    return Problem(found, found.configure(digits, fields), digits)


def test_the_path_is_as_short_as_the_best_of_all_orders() -> None:
    points = np.random.default_rng(0).random((7, 3))
    distances = np.abs(points[:, None] - points).sum(-1)

    def length(order: object) -> float:
        order = np.asarray(order)
        return float(distances[order[:-1], order[1:]].sum())

    found = hamiltonian_path(distances)
    assert sorted(found) == list(range(7))
    assert length(found) <= 1.05 * min(map(length, permutations(range(7))))
    assert length(found) < 0.9 * length(np.arange(7))


@pytest.mark.parametrize(("name", "fields"), [("mlp", {"hidden": (24,)}), ("small_cnn", {"channels": (12, 12)})])
def test_smoothing_lowers_the_total_variation_and_keeps_the_function(name: str, fields: dict[str, object]) -> None:
    chosen = problem(name, **fields)
    module = trained(chosen, Recipe(steps=30, learning_rate=5e-3)).double()
    inputs = tuple(x.double() for x in chosen.task.example_inputs(8))
    before = {key: value.detach() for key, value in module.named_parameters()}
    after = smoothed(module.float(), chosen)
    target = Target(module)
    for own in (before, after):
        own.update({key: value.double() for key, value in own.items()})
    torch.testing.assert_close(target(after, *inputs), target(before, *inputs), atol=1e-6, rtol=0)
    group = permutation_group(graphs.trace(module.float(), chosen.task.example_inputs()))
    for factor in group.factors:
        assert isinstance(factor, PermutationFactor)
        variation = [float(_units(factor, own).diff(dim=0).abs().sum()) for own in (before, after)]
        print(f"{name} {factor.name}: total variation {variation[1] / variation[0]:.2f} of before")
        assert variation[1] < 0.95 * variation[0]


def test_coordinates_are_those_of_the_dimensions_that_scale() -> None:
    chosen = problem(hidden=(8, 6))
    model = NeuMeta(chosen.target(), NeuMetaConfig())
    assert list(model.free.values()) == [[0], [0], [0, 1], [0], [1], []]
    points = model._coordinates([2, 3], [4, 6], None)
    assert points.shape == (6, 4)
    torch.testing.assert_close(points[-1], torch.tensor([0.75, 5 / 6, 0.5, 0.5]))
    noisy = model._coordinates([2, 3], [4, 6], torch.Generator().manual_seed(0))
    change = (noisy - points).abs()
    assert 0 < change[:, 0].max() <= 0.5 / 4
    assert (change[:, 2:] == 0).all()


def test_every_entry_is_the_function_at_its_coordinates() -> None:
    chosen = problem("small_cnn", channels=(6, 8))
    model = NeuMeta(chosen.target(), NeuMetaConfig(hidden=8))
    kernel = model((3, 4))["features.2.weight"]
    assert kernel.shape == (1, 4, 3, 3, 3)
    index = list(model.target.shapes).index("features.2.weight")
    at = torch.tensor([[2.5 / 4, 1.5 / 3, 0.5, 0.5]])
    expected = model.scales[index] * 2 * model.networks[index](at)
    torch.testing.assert_close(kernel[0, 2, 1].flatten(), expected[0])


def test_a_family_without_widths_is_refused() -> None:
    with pytest.raises(UserError, match="has no list of widths"):
        NeuMeta(Target.of(family("tree_lstm"), family("tree_lstm").config()), NeuMetaConfig())
    with pytest.raises(UserError, match="no family"):
        NeuMeta(Target(nn.Linear(3, 3)), NeuMetaConfig())


def recipe(steps: int) -> Recipe:
    return hypernetwork("neumeta").recipe.model_copy(update={"steps": steps})


def test_reordered_units_keep_the_function_and_the_largest_come_first() -> None:
    chosen = problem(hidden=(12,))
    module = chosen.family.build(chosen.config, 0)
    sorted_ = by_magnitude(module, chosen)
    (x,) = chosen.task.example_inputs(4)
    torch.testing.assert_close(Target(module)(sorted_, x), module(x), atol=1e-5, rtol=0)
    units = torch.cat([sorted_["layers.0.weight"], sorted_["layers.0.bias"][:, None], sorted_["layers.2.weight"].T], 1)
    assert (units.norm(dim=1).diff() <= 1e-6).all()
    assert score(chosen, sorted_) == pytest.approx(score(chosen, dict(module.named_parameters())), abs=5e-3)


def test_widths_that_were_never_trained() -> None:
    chosen = problem(hidden=(32,))
    own = generated(chosen, [(8,), (16,), (32,)], NeuMetaConfig(pretraining=150), recipe(200))
    assert min(own) >= 0.6
    full = trained(chosen, Recipe(steps=150, learning_rate=5e-3))
    assert score(at_width(chosen, (8,)), dict(full.named_parameters())) < own[0] - 0.1


@pytest.mark.slow
def test_the_width_sweep() -> None:
    chosen = problem(hidden=(32,))
    widths = [(width,) for width in (8, 12, 16, 20, 24, 28, 32)]
    found = width_sweep(chosen, widths, NeuMetaConfig(), recipe(800))
    found["rough"] = generated(chosen, widths, NeuMetaConfig(smooth=False, noise=0.0), recipe(800))
    for name, row in found.items():
        print(name, *(f"{value:.3f}" for value in row))
    own, full = found["generated"], trained(chosen)
    before, after = dict(full.named_parameters()), smoothed(full, chosen)
    (factor,) = permutation_group(graphs.trace(full, chosen.task.example_inputs())).factors
    assert isinstance(factor, PermutationFactor)
    sizes = [float(_units(factor, each).detach().diff(dim=0).abs().sum()) for each in (before, after)]
    print(f"total variation after ordering: {sizes[1] / sizes[0]:.2f} of before")
    least = torch.cat([p.detach().flatten() for p in full.parameters()]).abs().quantile(0.75)
    kept = {name: torch.where(value.detach().abs() >= least, value.detach(), 0) for name, value in before.items()}
    print(f"full size with three quarters of its weights set to zero: {score(chosen, kept):.3f}")
    assert min(own) >= own[-1] - 0.05, "no unseen width is more than five points below the full size"
    assert found["pruned"][0] <= found["pruned"][-1] - 0.15, "three quarters of the units pruned lose fifteen points"
    assert own[0] > found["pruned"][0] + 0.1
    assert np.mean(own[:-1]) > np.mean(found["rough"][:-1])
    assert sizes[1] <= 0.8 * sizes[0]
