"""Neural Metamorphosis: smoothing, the coordinates, and networks of widths that were never trained."""

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphs
from graphs.factors import PermutationFactor
from graphs.symmetry import permutation_group
from metanets.hyper import Problem, Target, hypernetwork
from metanets.hyper.hypernetwork import descend
from metanets.hyper.neumeta import NeuMeta, NeuMetaConfig, _units, hamiltonian_path, resized, smoothed
from modelzoo.errors import UserError
from modelzoo.family import Recipe, family
from modelzoo.task import task


def problem(name: str = "mlp", **fields: object) -> Problem:
    found, digits = family(name), task("digits")
    return Problem(found, found.configure(digits, fields), digits)


def pretrained(chosen: Problem, steps: int) -> nn.Module:
    module, generator = chosen.family.build(chosen.config, 0), torch.Generator().manual_seed(0)

    def loss() -> Tensor:
        inputs, targets = chosen.batch(generator, 64)
        return chosen.task.loss(module(*inputs), targets)

    descend(module, loss, Recipe(steps=steps, learning_rate=5e-3))
    return module


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
    module = pretrained(chosen, 30).double()
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


def sweep(chosen: Problem, widths: tuple[int, ...], steps: int, **fields: object) -> tuple[NeuMeta, list[float]]:
    """The trained manifold, and the test accuracy of networks sampled from it."""
    torch.manual_seed(0)
    found = hypernetwork("neumeta")
    model = NeuMeta(chosen.target(), NeuMetaConfig(held_out=widths[:-1], **fields))
    model.fit(chosen, found.recipe.model_copy(update={"steps": steps}), 0)
    generator = torch.Generator().manual_seed(0)
    scores = []
    with torch.no_grad():
        for width in widths:
            narrow = model.of_widths((width,))
            scores.append(float(chosen.scores(narrow, model.averaged(narrow, generator))[0]))
    return model, scores


def sliced(module: nn.Module, chosen: Problem, width: int) -> float:
    """Test accuracy of the first units of a network alone."""
    narrow = Target.of(chosen.family, resized(chosen.config, (width,)))
    own = dict(module.named_parameters())
    cut = {
        name: own[name].detach()[tuple(slice(size) for size in shape)][None] for name, shape in narrow.shapes.items()
    }
    return float(chosen.scores(narrow, cut)[0])


def test_widths_that_were_never_trained() -> None:
    chosen = problem(hidden=(32,))
    _, scores = sweep(chosen, (8, 16, 32), 200, pretraining=150)
    assert min(scores) >= 0.6
    assert sliced(pretrained(chosen, 150), chosen, 8) < scores[0] - 0.1


@pytest.mark.slow
def test_the_width_sweep() -> None:
    chosen = problem(hidden=(32,))
    widths = (8, 12, 16, 20, 24, 28, 32)
    _, own = sweep(chosen, widths, 800)
    _, rough = sweep(chosen, widths, 800, smooth=False, noise=0.0)
    full = pretrained(chosen, 300)
    before, after = dict(full.named_parameters()), smoothed(full, chosen)
    (factor,) = permutation_group(graphs.trace(full, chosen.task.example_inputs())).factors
    assert isinstance(factor, PermutationFactor)
    rough_size, smooth_size = (float(_units(factor, own).detach().diff(dim=0).abs().sum()) for own in (before, after))
    print(f"total variation after ordering: {smooth_size / rough_size:.2f} of before")
    cut = [sliced(full, chosen, width) for width in widths]
    trained = []
    for width in widths:
        narrow = Problem(chosen.family, resized(chosen.config, (width,)), chosen.task)
        module = pretrained(narrow, 300)
        trained.append(float(narrow.scores(narrow.target(), {k: v.detach()[None] for k, v in module.named_parameters()})[0]))  # fmt: skip
    flat = torch.cat([p.detach().flatten() for p in full.parameters()])
    least = flat.abs().quantile(0.75)
    kept = {k: torch.where(v.detach().abs() >= least, v.detach(), 0)[None] for k, v in full.named_parameters()}
    pruned = float(chosen.scores(chosen.target(), kept)[0])
    for name, row in (("width", widths), ("generated", own), ("neither order nor noise", rough), ("trained", trained), ("sliced", cut)):  # fmt: skip
        print(name, *(f"{value:.3f}" if isinstance(value, float) else value for value in row))
    print(f"full size with three quarters of its weights pruned: {pruned:.3f}")
    assert min(own) >= own[-1] - 0.05, "no unseen width is more than five points below the full size"
    assert own[0] > cut[0] + 0.15
    assert np.mean(own[:-1]) > np.mean(rough[:-1])
