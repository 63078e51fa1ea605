"""Lock-step training against plain torch, one model at a time."""

from typing import Any

import numpy as np
import pytest
import torch

from modelzoo.store import ModelBatch
from modelzoo.training import Plan, train_population
from modelzoo.training.lockstep import schedule
from modelzoo.training.sampling import sample_rows
from tests.modelzoo.training.toys import fit_prototypes, plan_of, register_toys


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    register_toys(monkeypatch)


def train(plan: Plan, ids: list[int] | None = None) -> ModelBatch:
    ids = list(range(plan.source.models)) if ids is None else ids
    source = plan.source
    return train_population(
        plan.family, plan.config, plan.task, plan.hyperparameters(ids), plan.recipe, source.checkpoint_every, source.metric_every
    )  # fmt: skip


def plain_torch(plan: Plan, model: int) -> tuple[torch.nn.Module, list[float]]:
    """The oracle: an ordinary module, an ordinary optimizer, an ordinary loop."""
    table = plan.hyperparameters([model])
    row, recipe, data = table.iloc[0], plan.recipe, plan.task.data()
    module = plan.family.build(plan.config, seed=int(row["seed"]))
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter *= float(row["init_scale"])
    kinds: dict[str, Any] = {"adam": torch.optim.AdamW, "sgd": torch.optim.SGD}
    options = {"weight_decay": float(row["weight_decay"])} if recipe.optimizer == "adam" else {"momentum": 0.9}
    optimizer = kinds[recipe.optimizer](module.parameters(), lr=float(row["learning_rate"]), **options)
    rows = sample_rows(plan.task, data, table, recipe.batch_size)
    losses = []
    for _ in range(recipe.steps):
        own = next(rows)
        assert own is None or own.shape[0] == 1
        x = data.train.inputs[0] if own is None else data.train.inputs[0][own[0]]
        y = data.train.targets[int(row["instance"])] if own is None else data.train.targets[own[0]]
        loss = plan.task.loss(module(x), y)
        optimizer.zero_grad()
        loss.backward()
        if recipe.gradient_clip:
            torch.nn.utils.clip_grad_norm_(module.parameters(), recipe.gradient_clip)
        if recipe.optimizer == "sgd":  # decoupled weight decay, which torch's SGD does not have
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter *= 1 - float(row["learning_rate"]) * float(row["weight_decay"])
        optimizer.step()
        losses.append(loss.item())
    return module, losses


VARIED = {"learning_rate": "1e-3:1e-1", "weight_decay": "1e-3:1", "data_fraction": "0.2:1", "init_scale": "0.5:2"}


@pytest.mark.parametrize(
    ("family", "fields", "rtol", "atol"),
    [
        ("toy", VARIED, 1e-7, 1e-9),
        ("toy", {**VARIED, "optimizer": "sgd", "gradient_clip": 0.3}, 1e-7, 1e-9),
        ("branching", VARIED, 1e-7, 1e-9),
        ("siren", {"steps": 40, "learning_rate": "1e-4:1e-3", "models": 3}, 1e-4, 1e-5),
        ("small_cnn", {"steps": 10, "learning_rate": "1e-4:1e-3", "models": 3, "batch_size": 16}, 1e-4, 1e-5),
    ],
    ids=["adam", "sgd, clipped", "one by one", "siren", "small_cnn"],
)
def test_every_model_is_what_plain_torch_makes(family: str, fields: dict[str, Any], rtol: float, atol: float) -> None:
    plan = plan_of(family, metric_every=1, **fields)
    batch = train(plan)
    for model in range(plan.source.models):
        module, losses = plain_torch(plan, model)
        for kind in ("parameters", "buffers"):
            for name, values in getattr(batch, kind).items():
                expected = module.state_dict()[name]
                torch.testing.assert_close(torch.as_tensor(values)[model, -1], expected, rtol=rtol, atol=atol, msg=name)
        np.testing.assert_allclose(batch.metrics["train_loss"][model][:-1], losses, rtol=1e-3 if rtol > 1e-6 else 1e-6)


def test_the_oracle_sees_a_wrong_learning_rate() -> None:
    plan = plan_of("toy")
    module, _ = plain_torch(plan_of("toy", learning_rate=0.0101), 0)
    gap = (torch.as_tensor(train(plan).parameters["inner.weight"])[0, -1] - module.inner.weight).abs().max()
    assert gap > 1e-4


@pytest.mark.parametrize("family", ["toy", "branching", "prototypes"])
def test_a_block_equals_its_models_alone(family: str) -> None:
    plan = plan_of(family, **VARIED)
    together = train(plan)
    for model in range(4):
        alone = train(plan, [model])
        for name, values in together.parameters.items():
            torch.testing.assert_close(torch.as_tensor(values)[model], torch.as_tensor(alone.parameters[name])[0], rtol=1e-7, atol=1e-9)  # fmt: skip
        assert alone.columns["split"][0] == together.columns["split"][model]
        for name in ("test_accuracy", "train_loss", "seed", "learning_rate", "data_fraction"):
            assert alone.columns[name][0] == pytest.approx(together.columns[name][model], rel=1e-5), name


@pytest.mark.parametrize("learning_rate", ["1e200", "1e308"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_diverged_model_is_kept_and_disturbs_nobody(learning_rate: str, optimizer: str) -> None:
    plan = plan_of("toy", optimizer=optimizer)
    calm = train(plan)
    table = plan.hyperparameters(list(range(4)))
    table.loc[2, "learning_rate"] = float(learning_rate)
    wild = train_population(plan.family, plan.config, plan.task, table, plan.recipe)
    assert list(wild.columns["status"]) == ["ok", "ok", "diverged", "ok"]
    assert list(calm.columns["status"]) == ["ok"] * 4
    others = [0, 1, 3]
    for kind in ("parameters", "buffers"):
        for name, values in getattr(calm, kind).items():
            torch.testing.assert_close(torch.as_tensor(getattr(wild, kind)[name])[others], torch.as_tensor(values)[others], rtol=1e-9, atol=1e-12)  # fmt: skip
    assert list(wild.columns["test_accuracy"][others]) == list(calm.columns["test_accuracy"][others])


def test_checkpoints_and_curves_are_at_their_steps() -> None:
    assert schedule(20, 7, 1) == (0, 7, 14, 20)
    assert schedule(20, None, 1) == (0, 20)
    assert schedule(20, 40, 1) == (0, 20)
    assert len(schedule(1000, None, 50)) == 51
    whole = train(plan_of("toy", steps=20, checkpoint_every=7, metric_every=2, learning_rate="1e-3:1e-1"))
    assert whole.parameters["inner.weight"].shape == (4, 4, 6, 4)
    assert whole.metrics["train_loss"].shape == (4, 11)
    known = np.isfinite(whole.metrics["test_accuracy"])
    assert known[0].tolist() == [step in (0, 14, 20) for step in range(0, 21, 2)], "the checkpoints that are entries"
    for checkpoint, steps in enumerate((0, 7, 14, 20)):
        if steps:
            short = train(plan_of("toy", steps=steps, learning_rate="1e-3:1e-1"))
            last = torch.as_tensor(short.parameters["inner.weight"])[:, -1]
        else:
            plan = plan_of("toy")
            last = torch.stack(
                [plan.family.build(plan.config, int(s)).inner.weight.detach() for s in whole.columns["seed"]]
            )
        assert torch.equal(torch.as_tensor(whole.parameters["inner.weight"])[:, checkpoint], last)


def test_measured_values_are_those_of_the_stored_model() -> None:
    """Batch-norm statistics must not move between storing and measuring."""
    plan = plan_of("toy")
    batch, data = train(plan), plan.task.data().test
    for model in range(4):
        module = plan.family.build(plan.config, 0).eval()
        state = {**batch.parameters, **batch.buffers}
        module.load_state_dict({name: torch.as_tensor(values)[model, -1] for name, values in state.items()})
        with torch.no_grad():
            outputs = module(*data.inputs)
        assert float(plan.task.loss(outputs, data.targets)) == pytest.approx(
            float(batch.columns["test_loss"][model]), rel=1e-6
        )
        assert float(plan.task.score(outputs, data.targets)) == float(batch.columns["test_accuracy"][model])


@pytest.mark.parametrize("family", ["prototypes", "slow_prototypes"])
def test_one_shot_families_are_fitted_to_their_share_of_the_data(family: str) -> None:
    plan = plan_of(family, data_fraction="0.3:1")
    batch = train(plan)
    assert batch.parameters["centre"].shape == (4, 2, 3, 4)
    module = plan.family.build(plan.config, 0)
    fit_prototypes(module, plan.task.data(), 0)
    centres = torch.as_tensor(batch.parameters["centre"])[:, 1]
    assert len({float(centre.sum()) for centre in centres}) == 4, "each model saw its own samples"
    torch.testing.assert_close(centres, module.centre.detach().expand(4, -1, -1), rtol=0.2, atol=0.5)
    assert (batch.columns["test_accuracy"] > 0.7).all()
    whole = train(plan_of(family))
    assert torch.equal(torch.as_tensor(whole.parameters["centre"])[2, 1], module.centre.detach())


def test_rows_are_epochs_over_the_models_own_samples() -> None:
    plan = plan_of("toy", data_fraction="0.2:0.9", batch_size=16)
    table, data = plan.hyperparameters([0, 1]), plan.task.data()
    rows = sample_rows(plan.task, data, table, 16)
    drawn = [next(rows) for _ in range(60)]
    for model, fraction in enumerate(table["data_fraction"]):
        own = torch.stack([step[model] for step in drawn if step is not None])
        assert len(own.unique()) <= round(200 * fraction)
        epoch = round(200 * fraction) // 16
        assert len(own[:epoch].unique()) == 16 * epoch, "no sample twice in an epoch"
