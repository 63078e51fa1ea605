"""Augmentations keep exactly what they say they keep, and change the rest; alignment finds planted orders."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from metanets.alignment import aligned
from metanets.batching import ModelFunction
from metanets.training.augmentation import Sample, augment, augmentation, augmentations, register, strengths
from metanets.training.augmentations.inputs import first_layer
from metanets.training.data import WeightData
from modelzoo.errors import UserError
from modelzoo.store import Zoo
from tests.metanets.subjects import MODELS, built, example, models, moved, stack

FAMILIES = ("mlp", "siren", "small_cnn", "lstm", "transformer")
EXACT = 1e-9
SURE = {"input_mirror": 1.0}  # strengths at which an augmentation changes every model, where its default does not


def sample(family: str, classes: int = 0) -> Sample:
    targets = torch.arange(MODELS) % classes if classes else torch.arange(MODELS, dtype=torch.float32)
    return Sample(models(family).topology, stack(family), targets, classes)


def changed(name: str, family: str) -> Sample:
    return augment(sample(family), strengths({name: SURE.get(name)}), torch.Generator().manual_seed(0))


def outputs(family: str, of: Sample, inputs: tuple[Tensor, ...] | None = None) -> Tensor:
    module, x = built(family, 0), inputs or example(family)
    calls = [torch.func.functional_call(module, {k: v[i] for k, v in of.tensors.items()}, x) for i in range(MODELS)]
    return torch.stack(calls).detach()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", list(augmentations()))
def test_it_keeps_the_function_or_not_as_declared(name: str, family: str) -> None:
    found, before = augmentation(name), sample(family)
    after = augment(before, strengths({name: SURE.get(name)}), torch.Generator().manual_seed(0))
    if not found.applies(before.topology):
        if after is not before:
            pytest.fail("it changes what it says it does not apply to")
        return
    assert set(after.tensors) == set(before.tensors)
    assert all(after.tensors[key].dtype == tensor.dtype for key, tensor in before.tensors.items())
    assert (after.values - before.values).abs().max() > 1e-3, "it does nothing"
    own, other = outputs(family, before), outputs(family, after)
    error = (own - other).flatten(1).abs().amax(1) / own.abs().max()
    if found.keeps == "function":
        assert error.max() <= EXACT
    else:
        assert error.min() > 1e-3
    assert torch.equal(after.targets, before.targets) == (found.keeps != "mixture")
    again = changed(name, family)
    assert torch.equal(after.values, again.values)


def test_the_check_fails_an_augmentation_that_breaks_the_function() -> None:
    """The control: one tensor permuted without its partners."""
    before = sample("siren")
    broken = before.with_tensors({"layers.1.weight": before.tensors["layers.1.weight"].flip(1)})
    own, other = outputs("siren", before), outputs("siren", broken)
    assert (own - other).abs().max() > 1e-3 * own.abs().max()


@pytest.mark.parametrize("name", ["input_shift", "input_rotation", "input_mirror"])
def test_the_signal_moves_as_its_input(name: str) -> None:
    """f'(x) = f(R x + t): what the first layer says R and t are explains the change of every output."""
    before, after = sample("siren"), changed(name, "siren")
    layer = first_layer(before.topology)
    assert layer is not None
    x = example("siren")[0]
    own = outputs("siren", after, (x,))
    for i in range(MODELS):
        weights, bias = (part.values[i] for part in (before, after)), after.values[i] - before.values[i]
        old, new = (each[layer.weights] for each in weights)
        turn = torch.linalg.lstsq(old, new).solution
        shift = torch.linalg.lstsq(old, bias[layer.biases][:, None]).solution[:, 0]
        torch.testing.assert_close(turn.mT @ turn, torch.eye(2, dtype=turn.dtype), atol=1e-9, rtol=0)
        expected = outputs("siren", before, (x @ turn.mT + shift,))[i]
        torch.testing.assert_close(own[i], expected, atol=1e-9, rtol=1e-9)
        assert (turn - torch.eye(2)).abs().max() + shift.abs().max() > 1e-3
    assert not augmentation(name).applies(models("small_cnn").topology)


def test_half_of_the_models_are_mirrored_and_the_others_are_as_they_were() -> None:
    before = sample("siren")
    layer = first_layer(before.topology)
    assert layer is not None
    seen = []
    for seed in range(40):
        after = augment(before, strengths({"input_mirror": None}), torch.Generator().manual_seed(seed))
        for own, other in zip(before.values, after.values, strict=True):
            mirrored = own.clone()
            mirrored[layer.weights[:, -1]] *= -1
            seen.append(torch.equal(other, mirrored))
            assert seen[-1] or torch.equal(other, own)
    assert 0.35 < sum(seen) / len(seen) < 0.65


def test_mixup_mixes_weights_and_targets_alike() -> None:
    before = sample("mlp", classes=3)
    after = augment(before, {"mixup_direct": 0.5}, torch.Generator().manual_seed(0))
    torch.testing.assert_close(after.targets.sum(1), torch.ones(MODELS))
    hot = torch.nn.functional.one_hot(before.targets, 3).double()
    for i in range(MODELS):
        # the share of every model follows from its weights, for some partner; its target must have the same
        errors = []
        for j in range(MODELS):
            a, b = before.values[i], before.values[j]
            share = 1.0 if i == j else float((after.values[i] - b) @ (a - b) / (a - b).square().sum())
            off = (share * a + (1 - share) * b - after.values[i]).abs().max()
            errors.append((float(off), (share * hot[i] + (1 - share) * hot[j] - after.targets[i]).abs().max()))
        assert min(errors)[0] < 1e-9
        assert min(errors)[1] < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_alignment_recovers_a_planted_order_exactly(family: str) -> None:
    """Also of heads with their insides, and of neurons that stand twice in a recurrent matrix."""
    before, after = models(family), models(family, moved(family, "permutation", 3))
    assert (after.values - before.values).norm() > 0.1 * before.values.norm()
    assert torch.equal(aligned(before.topology, before.values, after.values), before.values)


@pytest.mark.parametrize("family", FAMILIES)
def test_aligned_models_are_the_same_functions_and_nearer(family: str) -> None:
    before = models(family)
    other = before.values.roll(1, 1)
    found = aligned(before.topology, before.values, other)
    assert ((found - before.values).norm(dim=0) < (other - before.values).norm(dim=0)).all()
    rolled = {name: tensor.roll(1, 0) for name, tensor in stack(family).items()}
    own = Sample(before.topology, rolled, torch.zeros(MODELS))
    torch.testing.assert_close(outputs(family, own.with_values(found.T)), outputs(family, own), rtol=1e-8, atol=1e-9)


def test_names_and_strengths_are_checked() -> None:
    assert strengths({"noise": None}) == {"noise": augmentation("noise").strength}
    with pytest.raises(UserError, match="did you mean 'orbit'"):
        strengths({"orbits": None})
    with pytest.raises(UserError, match=r"in \(0, 0.99\], got 1"):
        strengths({"dropout": 1.0})
    with pytest.raises(UserError, match="positive, got -1"):
        strengths({"noise": -1.0})
    with pytest.raises(ValueError, match="twice"):
        register(augmentation("noise"))
    assert all(each.summary.endswith(".") and each.strength > 0 for each in augmentations().values())


def test_the_middle_of_aligned_models_is_far_better_than_that_of_models_as_they_are(metanet_zoo: Path) -> None:
    """Pairs of CNNs from different random weights: the rise of the test loss half-way is at most 0.6 of what it was."""
    block = WeightData(Zoo.open(metanet_zoo), ["small_cnn"], "test_accuracy").blocks[0]
    good = torch.from_numpy(np.flatnonzero(block.table["test_accuracy"] > 0.6))
    count = len(good) // 2
    assert count >= 10
    left, right = block.values[:, good[:count]], block.values[:, good[count : 2 * count]]
    split = block.population.task.data().test

    def loss(values: Tensor) -> Tensor:
        tensors = {
            **{name: tensor[:count] for name, tensor in block.tensors.items()},
            **block.structure.scatter(values.T),
        }
        logits = ModelFunction(block.population.template(), tensors, block.population.task.inputs.shape)(
            split.inputs[0]
        )
        return torch.stack([torch.nn.functional.cross_entropy(each, split.targets) for each in logits])

    moved_right = aligned(block.topology, left, right)
    torch.testing.assert_close(loss(moved_right), loss(right), rtol=1e-4, atol=1e-5)
    ends = (loss(left) + loss(right)) / 2
    direct, matched = (float((loss((left + other) / 2) - ends).mean()) for other in (right, moved_right))
    assert matched < 0.6 * direct
