"""The contract of a family, measured on every registered one: nothing here names an architecture.

A family that cannot take one of these tests says so, with the reason, in `Family.limits`.
"""

from functools import cache

import numpy as np
import pytest
import torch

from graphs import symmetry
from modelzoo.family import GROUPS, Family, Recipe, families, family, register
from modelzoo.store import ModelBatch, Population, PopulationInfo, Zoo, manifest
from modelzoo.task import task, tasks
from modelzoo.training import Plan, PopulationConfig, train_population

NAMES = list(families())
SEEDS = 2


def skip_if_limited(name: str, test: str) -> None:
    if reason := family(name).limits.get(test):
        pytest.skip(f"{name}: {reason}")


def plan_of(name: str, **fields: object) -> Plan:
    return Plan.of(PopulationConfig.read(family=name, models=SEEDS, tiny=True, **fields))


def train(plan: Plan, ids: list[int], recipe: Recipe | None = None) -> ModelBatch:
    return train_population(plan.family, plan.config, plan.task, plan.hyperparameters(ids), recipe or plan.recipe)


@cache
def trained(name: str) -> ModelBatch:
    """Two tiny members of a family, trained on its default task by its tiny recipe."""
    plan = plan_of(name)
    return train(plan, list(range(SEEDS)))


def stored(name: str) -> Population:
    """The same two models, through the zoo and back."""
    plan, batch = plan_of(name), trained(name)
    module = plan.family.build(plan.config, seed=0)
    parameters, buffers = manifest(module)
    info = PopulationInfo(
        name="sweep", family=name, family_config=plan.config.model_dump(mode="json"), task=plan.task.name,
        checkpoint_steps=(0, plan.recipe.steps), parameters=parameters, buffers=buffers,
    )  # fmt: skip
    population = Zoo.create("memory://").create_population(info)
    population.append(batch)
    return population


@pytest.mark.parametrize("name", NAMES)
def test_documentation_is_complete(name: str) -> None:
    found = family(name)
    assert found.group in GROUPS
    for text in (found.summary, found.equation, found.symmetry, found.paper.title, found.paper.authors):
        assert text.strip()
    assert "Shape:" in (found.module.__doc__ or ""), "the module's docstring states the shapes"
    assert found.task in tasks()
    assert found.config() is not None, "the config has defaults"
    for limit, reason in found.limits.items():
        assert limit in {"baseline", "gradient", "lockstep", "symmetry", "graph", "embedding"}
        assert len(reason.split()) > 3, "a limit says why"
    for fields in found.variants.values():
        found.configure(task(found.task), fields)


@pytest.mark.parametrize("name", NAMES)
def test_trains_past_the_trivial_baseline(name: str) -> None:
    skip_if_limited(name, "baseline")
    plan = plan_of(name)
    columns = trained(name).columns
    assert list(columns["status"]) == ["ok"] * SEEDS
    for score in columns[f"test_{plan.task.metric}"]:
        assert plan.task.beats_baseline(float(score), plan.family.margin), (score, plan.task.trivial_score())


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_receives_a_gradient(name: str) -> None:
    skip_if_limited(name, "gradient")
    plan = plan_of(name)
    module = plan.family.build(plan.config, seed=1).train()
    data = plan.task.data().train
    rows = slice(None) if plan.task.sampling == "full" else slice(0, 64)
    targets = data.targets[0] if plan.task.instances else data.targets[rows]
    outputs = module(*(data.inputs if plan.task.sampling == "full" else tuple(x[rows] for x in data.inputs)))
    if data.mask is not None:
        outputs, targets = outputs[data.mask], targets[data.mask]
    plan.task.loss(outputs, targets).backward()
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None, f"{key} has no gradient"
        assert parameter.grad.isfinite().all(), f"the gradient of {key} is not finite"
        assert parameter.grad.abs().max() > 0, f"the gradient of {key} is zero"


@pytest.mark.parametrize("name", NAMES)
def test_store_round_trip_is_bit_equal(name: str) -> None:
    population, batch = stored(name), trained(name)
    for kind, given in (("parameters", batch.parameters), ("buffers", batch.buffers)):
        for step in range(2):
            read = population.stacked(checkpoint=step, kind=kind)
            assert set(read) == set(given)
            for key, value in given.items():
                expected = torch.as_tensor(value)[:, step]
                assert read[key].dtype == expected.dtype
                assert read[key].numpy().tobytes() == np.ascontiguousarray(expected.detach().numpy()).tobytes(), key


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_model_computes_what_was_measured(name: str) -> None:
    population = stored(name)
    plan, batch = plan_of(name), trained(name)
    data = plan.task.data().test
    targets = data.targets[int(batch.columns["instance"][0])] if plan.task.instances else data.targets
    with torch.no_grad():
        outputs = population.module(0)(*data.inputs)
        if data.mask is not None:
            outputs, targets = outputs[data.mask], targets[data.mask]
        score = float(plan.task.score(outputs, targets))
    assert score == pytest.approx(float(batch.columns[f"test_{plan.task.metric}"][0]), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_lockstep_training_equals_one_by_one(name: str) -> None:
    skip_if_limited(name, "lockstep")
    plan = plan_of(name)
    if plan.family.not_vmappable:
        assert len(plan.family.not_vmappable.split()) > 3, "a family that is not vmappable says why"
    recipe = plan.recipe.model_copy(update={"steps": min(4, plan.recipe.steps)})
    together = train(plan, [0, 1], recipe)
    for model in range(SEEDS):
        alone = train(plan, [model], recipe)
        for key, value in together.parameters.items():
            torch.testing.assert_close(
                torch.as_tensor(value)[model], torch.as_tensor(alone.parameters[key])[0], rtol=2e-3, atol=2e-4, msg=key
            )


@pytest.mark.parametrize("name", NAMES)
def test_a_random_symmetry_leaves_the_function_unchanged(name: str) -> None:
    skip_if_limited(name, "symmetry")
    plan = plan_of(name)
    module = plan.family.build(plan.config, seed=0)
    group = symmetry(module, plan.task.example_inputs())  # raises when the check in float64 fails
    assert group.verdict.passed
    assert group.verdict.error <= 1e-6
    assert group.factors, "every family has interchangeable neurons somewhere"
    assert group.verdict.change > 1e-3, "the elements move the weights"
    assert not group.unknown_ops


class NoGradient(torch.nn.Module):
    """A module with a parameter that does nothing.

    Shape:
        inputs `[B, *]`; outputs `[B, 10]`.
    """

    def __init__(self, config: object) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.idle = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1)) + 0 * self.idle


def test_the_sweep_fails_on_a_broken_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """Controls: an idle parameter, a margin that cannot be met, a store that rounds."""
    mlp = family("mlp")
    broken = Family(**{**vars(mlp), "module": NoGradient, "perceptron": None, "margin": 0.99})
    monkeypatch.setitem(families.__globals__["_REGISTRY"], "mlp", broken)
    trained.cache_clear()
    try:
        with pytest.raises(AssertionError, match="idle is zero"):
            test_every_parameter_receives_a_gradient("mlp")
        with pytest.raises(AssertionError):
            test_trains_past_the_trivial_baseline("mlp")
        read = Population.stacked
        monkeypatch.setattr(
            Population, "stacked", lambda self, **how: {k: v.half().float() for k, v in read(self, **how).items()}
        )
        with pytest.raises(AssertionError):
            test_store_round_trip_is_bit_equal("mlp")
    finally:
        trained.cache_clear()


def test_a_family_is_registered_once_and_in_its_place() -> None:
    with pytest.raises(ValueError, match="registered twice"):
        register(family("mlp"))
