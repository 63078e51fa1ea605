"""The dependency-preserving hypernetwork: what depends on what, growth, and tasks that are not forgotten."""

import pytest
import torch
from torch import Tensor

from metanets.hyper import Problem
from metanets.hyper.recurrent_hypernetwork import RecurrentHypernetwork, RecurrentHypernetworkConfig, permuted
from modelzoo.family import Recipe, family, parameter_count
from modelzoo.task import task


def problem() -> Problem:
    mlp, digits = family("mlp"), task("digits")
    return Problem(mlp, mlp.configure(digits, {"hidden": (32,)}), digits)


def build(**fields: object) -> RecurrentHypernetwork:
    torch.manual_seed(0)
    return RecurrentHypernetwork(problem().target(), RecurrentHypernetworkConfig(**fields))


def test_later_chunks_depend_on_earlier_ones_only_in_the_recurrent_network() -> None:
    for recurrent in (True, False):
        model = build(recurrent=recurrent)
        flat = model.target.join(model(torch.tensor([0])))[0]
        for read, early in ((flat[-1], 0), (flat[0], -1)):
            gradient = torch.autograd.grad(read, model.chunk_embeddings, retain_graph=True)[0]
            depends = bool(gradient[early].abs().max() > 0)
            assert depends == (recurrent and early == 0)


def test_growth_leaves_generated_parameters_and_new_units_learn() -> None:
    model = build(tasks=2)
    before = model.target.join(model(torch.arange(2)))
    size = parameter_count(model)
    model.grow(5)
    after = model.target.join(model(torch.arange(2)))
    torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-6)
    assert parameter_count(model) > size
    after.square().sum().backward()
    gradient = model.head.weight.grad
    assert gradient is not None
    assert gradient[:, -5:].abs().max() > 0
    with torch.no_grad():
        model.head.weight[:, -1] = 1
    assert (model.target.join(model(torch.arange(2))) - before).abs().max() > 1e-3, "the new units are active"


def test_inputs_are_permuted_the_same_way_for_every_sample() -> None:
    x = torch.arange(12.0).view(2, 1, 2, 3)
    assert torch.equal(permuted(x, 0), x)
    assert torch.equal(permuted(x, 3)[1] - permuted(x, 3)[0], torch.full((1, 2, 3), 6.0))
    assert not torch.equal(permuted(x, 3), permuted(x, 4))


def test_the_importance_is_the_fisher_information() -> None:
    """Against squared gradients of each batch, taken through the module; pixels that are always dark do not matter."""
    chosen, model = problem(), build(tasks=1)
    train = chosen.task.data().train
    found = model._importance(0, lambda: ((train.inputs[0][:256],), train.targets[:256]), chosen)
    assert float(found.mean()) == pytest.approx(1, rel=1e-4)
    dark = (train.inputs[0][:256].flatten(1) == 0).all(0)
    first = model.target.split(found)["layers.0.weight"]
    assert dark.any()
    assert (first[:, dark] == 0).all()
    assert first[:, ~dark].mean() > 0


def course(model: RecurrentHypernetwork, tasks: int, steps: int, rate: float = 3e-2) -> tuple[float, float]:
    """Average accuracy after all tasks, and how much of each task's first accuracy was lost on average."""
    chosen, generator, first = problem(), torch.Generator().manual_seed(0), []
    for number in range(tasks):
        if number and model.config.growth:
            model.grow(model.config.growth)

        def batch(number: int = number) -> tuple[tuple[Tensor, ...], Tensor]:
            inputs, targets = chosen.batch(generator, 64)
            return (permuted(inputs[0], number),), targets

        model.learn(number, batch, chosen, Recipe(steps=steps, learning_rate=rate))
        first.append(model.scores(chosen, number + 1)[-1])
    last = model.scores(chosen, tasks)
    return float(last.mean()), float((torch.stack(first) - last)[:-1].mean())


def test_two_tasks_are_kept_with_the_regulariser_and_not_without() -> None:
    average, forgotten = course(build(tasks=2), 2, 140)
    _, without = course(build(tasks=2, stability=0), 2, 140)
    assert average >= 0.75
    assert forgotten <= 0.05
    assert without >= 0.25


@pytest.mark.slow
def test_five_permuted_tasks() -> None:
    found = {}
    for name, fields in (
        ("recurrent", {}), ("growing", {"growth": 4}), ("without importance", {"importance": False}),
        ("without regulariser", {"stability": 0}), ("independent chunks", {"recurrent": False, "hidden": 48}),
    ):  # fmt: skip
        model = build(tasks=5, **fields)
        rate = 3e-2 if model.config.recurrent else 1e-2  # at 3e-2 independent chunks do not learn
        found[name] = (*course(model, 5, 200, rate), parameter_count(model))
        print("{}: average accuracy {:.3f}, forgotten {:.3f}, {} parameters".format(name, *found[name]))
    assert found["recurrent"][0] >= 0.85
    assert found["recurrent"][1] <= 0.05
    assert found["without regulariser"][1] >= 0.25
    assert found["independent chunks"][2] >= found["recurrent"][2]
    assert found["recurrent"][0] >= found["independent chunks"][0]
