"""The ways to train a block make the same models, and the fastest one that fits is taken."""

from typing import Any

import pytest
import torch

from modelzoo.family import families
from modelzoo.kernels import native
from modelzoo.kernels.mlp_population_train.reference import activate
from modelzoo.kernels.registry import VARIABLE
from modelzoo.training import Plan, choices, train_population
from modelzoo.training.trainers import Fused, Vmapped
from tests.modelzoo.training.toys import plan_of

PERCEPTRONS = [
    pytest.param(family, fields, id=f"{family.name}-{variant}")
    for family in families().values()
    if family.perceptron
    for variant, fields in {"plain": {}, **family.variants}.items()
]


@pytest.mark.parametrize(("family", "fields"), PERCEPTRONS)
def test_a_perceptron_is_what_its_family_says(family: Any, fields: Any) -> None:
    config = family.config(**fields)
    module, form = family.build(config, 0), family.perceptron(config)
    names = [f"{layer}.{kind}" for layer in form.layers for kind in ("weight", "bias")]
    assert sorted(names) == sorted(name for name, _ in module.named_parameters())
    x = torch.randn(5, module.get_parameter(names[0]).shape[1], generator=torch.Generator().manual_seed(0))
    h = x
    for i, layer in enumerate(form.layers):
        h = h @ module.get_parameter(f"{layer}.weight").T + module.get_parameter(f"{layer}.bias")
        h = activate(form.frequency * h, form.activation) if i + 1 < len(form.layers) else h
    torch.testing.assert_close(module(x), h, rtol=1e-4, atol=1e-5)


def taken(patch: pytest.MonkeyPatch) -> list[str]:
    """Names of the trainers that are made from now on."""
    made: list[str] = []
    for kind in (Fused, Vmapped):

        def make(*given: Any, kind: Any = kind) -> Any:
            made.append(kind.__name__)
            return kind(*given)

        patch.setattr(choices, kind.__name__, make)
    return made


def train(plan: Plan) -> Any:
    source = plan.source
    table = plan.hyperparameters(range(source.models))
    return train_population(plan.family, plan.config, plan.task, table, plan.recipe, source.checkpoint_every, source.metric_every)  # fmt: skip


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("siren.deep", {}),
        ("mlp.tanh", {"task": "digits_inr"}),
        ("mlp", {"task": "digits_inr", "weight_decay": "1:9"}),
        ("mlp", {"batch_size": 9, "weight_decay": 0.1, "data_fraction": "0.1:1"}),
    ],
    ids=["siren", "tanh", "relu", "classifier"],
)
def test_both_ways_make_the_same_zoo(family: str, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    made = taken(monkeypatch)
    plan = plan_of(family, steps=25, learning_rate="1e-4:1e-3", checkpoint_every=10, metric_every=4, init_scale="0.9:1.1", **fields)  # fmt: skip
    fused = train(plan)
    monkeypatch.setenv(VARIABLE, "reference")
    vmapped = train(plan)
    assert made == ["Fused", "Vmapped"]
    for name, values in fused.parameters.items():
        torch.testing.assert_close(
            torch.as_tensor(values), torch.as_tensor(vmapped.parameters[name]), rtol=1e-3, atol=2e-5
        )
    for name, values in fused.metrics.items():
        torch.testing.assert_close(
            torch.as_tensor(values), torch.as_tensor(vmapped.metrics[name]), rtol=1e-4, atol=1e-5, equal_nan=True
        )
    assert set(fused.columns) == set(vmapped.columns)
    assert list(fused.columns["status"]) == ["ok"] * 4


@pytest.mark.parametrize(
    "fields", [{"gradient_clip": 1.0}, {"optimizer": "sgd"}, {"family": "mlp.wide", "task": "digits"}],
    ids=["clipping", "sgd", "width"],
)  # fmt: skip
def test_what_the_operation_cannot_do_is_left_to_lock_step(fields: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = taken(monkeypatch)
    plan = plan_of(fields.pop("family", "siren"), steps=1, **fields)
    train(plan)
    monkeypatch.setattr(native, "compiler", lambda: "")
    train(plan_of("siren", steps=1))
    assert made == ["Vmapped", "Vmapped"], "and so is everything where there is no compiler"


def test_a_diverged_perceptron_is_kept_and_marked() -> None:
    plan = plan_of("siren", steps=10)
    table = plan.hyperparameters(range(4))
    calm = train_population(plan.family, plan.config, plan.task, table, plan.recipe)
    table.loc[2, "learning_rate"] = 3e38
    wild = train_population(plan.family, plan.config, plan.task, table, plan.recipe)
    assert list(wild.columns["status"]) == ["ok", "ok", "diverged", "ok"]
    for name, values in calm.parameters.items():
        others = [0, 1, 3]
        assert torch.equal(torch.as_tensor(wild.parameters[name])[others], torch.as_tensor(values)[others])
