"""The contract, on every registered hypernetwork and on targets of several families."""

import pytest
import torch
from torch import Tensor, nn

from metanets.hyper import Problem, Target, hypernetwork, hypernetworks
from metanets.hyper.heads import Heads, HeadsConfig
from metanets.hyper.hypernetwork import descend, register
from modelzoo.errors import UserError
from modelzoo.family import Recipe, families, family
from modelzoo.task import task


def problem(name: str = "mlp", **fields: object) -> Problem:
    found = family(name)
    chosen = task("digits") if not fields.get("task") else task(str(fields.pop("task")))
    return Problem(found, found.configure(chosen, {**found.tiny, **fields}), chosen)


class Oddments(nn.Module):
    """A module of no family, with a scalar and a tied parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.second(self.first(x).tanh())


@pytest.mark.parametrize("kind", ["shared", "per_tensor", "chunked"])
@pytest.mark.parametrize("name", ["oddments", "mlp", "small_cnn", "lstm", "gcn"])
def test_any_module_is_a_target(name: str, kind: str) -> None:
    torch.manual_seed(0)
    if name == "oddments":
        target, inputs = Target(Oddments()), (torch.randn(4, 3),)
    else:
        found = family(name)
        target = Target.of(found, found.configure(task(found.task), found.tiny))
        inputs = task(found.task).example_inputs()
    heads = Heads(2, target, HeadsConfig(heads=kind, chunk=50))
    parameters = heads(torch.randn(5, 2))
    assert {name: tuple(value.shape[1:]) for name, value in parameters.items()} == target.shapes
    together = target.map(parameters, *inputs)
    for i in range(5):
        alone = target({name: value[i] for name, value in parameters.items()}, *inputs)
        torch.testing.assert_close(together[i], alone, rtol=1e-4, atol=1e-5)
    together.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in heads.parameters() if parameter.grad is not None)
    flat = target.join(parameters)
    assert flat.shape == (5, target.size)
    assert all(torch.equal(value, parameters[name]) for name, value in target.split(flat).items())


def test_families_that_cannot_be_vmapped_give_the_same() -> None:
    chosen = problem()
    target, slow = chosen.target(), Target(chosen.target().module, vmappable=False)
    parameters = {name: torch.stack([value, 2 * value]) for name, value in target.initial().items()}
    x = chosen.task.example_inputs()[0]
    torch.testing.assert_close(target.map(parameters, x), slow.map(parameters, x))
    own = torch.stack([x, x + 1])
    torch.testing.assert_close(target.map(parameters, own, own=True), slow.map(parameters, own, own=True))


def test_the_measured_loss_is_that_of_the_module() -> None:
    chosen = problem()
    target = chosen.target(3)
    x, y = chosen.task.data().train.inputs[0][:50], chosen.task.data().train.targets[:50]
    parameters = {name: value[None] for name, value in target.initial().items()}
    module = chosen.family.build(chosen.config, 3)
    expected = chosen.task.loss(module(x), y)
    torch.testing.assert_close(chosen.losses(target, parameters, (x,), y)[0], expected)
    test = chosen.task.data().test
    loss, score = chosen.test(target, parameters)
    torch.testing.assert_close(score[0], chosen.task.score(module(*test.inputs), test.targets))
    torch.testing.assert_close(loss[0], chosen.task.loss(module(*test.inputs), test.targets))


@pytest.mark.parametrize("name", list(hypernetworks()))
def test_every_hypernetwork_generates_models_that_fit_their_architecture(name: str) -> None:
    found = hypernetwork(name)
    chosen = problem(found.family or "mlp")
    target = chosen.target()
    module = found.build(target, found.configure(found.tiny), 0)
    module.fit(chosen, found.recipe.model_copy(update={"steps": 2, "batch_size": 16}), 0)
    made = list(module.samples(chosen, 3, torch.Generator().manual_seed(0)))
    assert made
    for each in made:
        fitting = Target.of(chosen.family, each.config)
        models = len(next(iter(each.parameters.values())))
        assert {key: tuple(value.shape) for key, value in each.parameters.items()} == {
            key: (models, *shape) for key, shape in fitting.shapes.items()
        }
        assert all(value.isfinite().all() and not value.requires_grad for value in each.parameters.values())
        assert all(len(column) == models for column in each.columns.values())


@pytest.mark.parametrize("name", list(hypernetworks()))
def test_a_seed_gives_the_same_hypernetwork_and_leaves_the_generator_alone(name: str) -> None:
    found = hypernetwork(name)
    target = problem(found.family or "mlp").target()
    before = torch.random.get_rng_state()
    first, second, other = (found.build(target, found.configure(found.tiny), seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_registered_once_in_a_file_of_its_name() -> None:
    with pytest.raises(ValueError, match="registered twice"):
        register(hypernetwork("mip"))
    with pytest.raises(UserError, match="did you mean 'pranc'"):
        hypernetwork("prank")
    with pytest.raises(UserError, match="hiden"):
        hypernetwork("mip").configure({"hiden": 3})
    with pytest.raises(UserError, match="greater than 0"):
        hypernetwork("pranc").configure({"coefficients": 0})


def test_tasks_with_instances_are_refused() -> None:
    found = families()["siren"]
    with pytest.raises(UserError, match="its own instance"):
        Problem(found, found.config(), task("digits_inr"))


def test_descend_reaches_a_minimum() -> None:
    module = nn.Linear(2, 1)
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    curve = descend(
        module, lambda: (module(x)[:, 0] - x[:, 0] - 1).square().mean(), Recipe(steps=300, learning_rate=0.05)
    )
    assert curve[-1] < 1e-3 < curve[0]
