"""Storage, descent and data quality of the dense Hebbian network on random patterns."""

from typing import Any

import pytest
import torch

from modelzoo.families.memory.dense_hebbian import DenseHebbian, DenseHebbianConfig, fit
from modelzoo.metrics import overlap
from modelzoo.task import Split, TaskData


def build(**fields: Any) -> DenseHebbian:
    return DenseHebbian(DenseHebbianConfig(**{"units": 100, **fields}))


def random_patterns(count: int, examples: int, quality: float, flipped: float, units: int = 100) -> TaskData:
    """Random ±1 archetypes; examples agree with them in (1 + quality)/2 of the units, tests in 1 - flipped."""
    generator = torch.Generator().manual_seed(0)
    archetypes = torch.randint(0, 2, (count, units), generator=generator) * 2.0 - 1

    def copies(number: int, wrong: float) -> Split:
        targets = archetypes.repeat(number, 1)
        flips = torch.rand(targets.shape, generator=generator) < wrong
        return Split((torch.where(flips, -targets, targets),), targets)

    return TaskData(copies(examples, (1 - quality) / 2), copies(1, flipped))


def recall(count: int, interaction: int, examples: int = 20, quality: float = 0.6, flipped: float = 0.15) -> float:
    data = random_patterns(count, examples, quality, flipped)
    module = build(patterns=count, interaction=interaction, examples=examples, temperature=0.001, sweeps=10)
    fit(module, data, seed=0)
    with torch.no_grad():
        return float(overlap(module(*data.test.inputs), data.test.targets))


def test_four_body_interactions_store_what_pairs_cannot() -> None:
    """The catalogue's check: 100 units, 200 patterns, 20 examples of quality 0.6, 15% of the units flipped."""
    assert recall(200, interaction=4) >= 0.95
    assert recall(200, interaction=2) <= 0.4
    assert recall(5, interaction=2) >= 0.95, "few patterns are no problem for pairs"


def test_poor_data_needs_more_examples() -> None:
    overlaps = [recall(50, interaction=4, examples=examples, quality=0.2) for examples in (2, 20, 80)]
    assert overlaps[0] < overlaps[1] < overlaps[2]
    assert overlaps[0] < 0.4
    assert overlaps[2] > 0.9


def test_fit_averages_the_examples_of_each_pattern() -> None:
    data = random_patterns(3, 8, 0.6, 0.15)
    module = build(patterns=3, examples=8)
    fit(module, data, seed=1)
    for archetype in data.test.targets:
        mean = data.train.inputs[0][(data.train.targets == archetype).all(1)].mean(0)
        alike = torch.cosine_similarity(module.patterns.detach(), mean[None])
        assert float(alike.max()) > 1 - 1e-6
    torch.testing.assert_close(module.patterns.detach().square().mean(1), torch.ones(3))


@pytest.mark.parametrize("interaction", [2, 4])
def test_one_update_follows_the_field_of_the_energy(interaction: int) -> None:
    """The argument of tanh against automatic derivatives; with pairs it is exactly the slope at s_i = 0."""
    data = random_patterns(10, 20, 0.8, 0.15)
    module = build(patterns=10, interaction=interaction, temperature=0.5, sweeps=1)
    fit(module, data, seed=0)
    state = data.test.inputs[0][0]

    def energy(s: torch.Tensor) -> torch.Tensor:
        return module.energy(s.unsqueeze(0)).squeeze(0)

    slope, curvature = torch.func.grad(energy)(state), torch.func.hessian(energy)(state).diagonal()
    output = module(state.unsqueeze(0))[0]
    torch.testing.assert_close(output, ((-slope + state * curvature) / 0.5).tanh())
    if interaction == 2:
        alone = state.repeat(100, 1).fill_diagonal_(0)
        torch.testing.assert_close(output, (-torch.func.vmap(torch.func.grad(energy))(alone).diagonal() / 0.5).tanh())


def test_recall_descends_the_energy() -> None:
    data = random_patterns(10, 20, 0.8, 0.15)
    module = build(patterns=10, interaction=4, temperature=0.01)
    fit(module, data, seed=0)
    with torch.no_grad():
        state = data.test.inputs[0]
        assert (module.energy(module(state)) < module.energy(state)).all()
