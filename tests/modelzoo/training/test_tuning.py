"""Choices by measurement: remembered, and without effect on the models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from modelzoo.training import choices, train_population, tuning
from modelzoo.training.choices import block_size
from modelzoo.training.convolutions import WAYS, convolution
from modelzoo.training.draws import Replacing
from modelzoo.training.tuning import fastest
from tests.modelzoo.training.toys import plan_of


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still; the work of a candidate moves it."""
    monkeypatch.setenv("METAZOO_CACHE", str(tmp_path))
    now = [0.0]
    monkeypatch.setattr(tuning, "clock", lambda: now[0])
    return now


def work(clock: list[float], cost: dict[Any, float], done: list[Any]) -> Callable[[Any], Callable[[], float]]:
    def once(candidate: Any) -> Callable[[], float]:
        def call() -> float:
            done.append(candidate)
            clock[0] += cost[candidate]
            return 2.0

        clock[0] += 10.0  # preparing may take its time
        return call

    return once


def test_the_fastest_is_measured_once_and_remembered(clock: list[float], tmp_path: Path) -> None:
    done: list[Any] = []
    once = work(clock, {"a": 0.2, "b": 0.1, "c": 0.5}, done)
    assert fastest({"choice": "x"}, ["a", "b", "c"], once) == "b"
    assert done[:3] == ["a", "b", "c"]
    assert done.count("c") == 1, "five times slower: it does not come again"
    assert 31.0 <= clock[0] < 32.0
    count = len(done)
    assert fastest({"choice": "x"}, ["a", "b", "c"], once) == "b"
    assert len(done) == count
    (file,) = (tmp_path / "tuning").iterdir()
    assert json.loads(file.read_text())["seconds"] == pytest.approx({"a": 0.1, "b": 0.05, "c": 0.25})
    assert fastest({"choice": "y"}, ["a", "b"], once) == "b", "another question is measured"
    assert len(done) > count
    file.write_text("{")
    assert fastest({"choice": "x"}, ["a", "b", "c"], once) == "b", "a broken file is measured again"
    assert fastest({}, ["only"], None) == "only"  # type: ignore[arg-type]


def test_what_the_budget_never_reaches_is_not_chosen(clock: list[float]) -> None:
    assert fastest({"choice": "z"}, [8, 16, 32], work(clock, {8: 0.6, 16: 0.5, 32: 0.01}, [])) == 16


def test_a_cache_that_cannot_be_written_is_done_without(clock: list[float], tmp_path: Path) -> None:
    (tmp_path / "tuning").write_text("a file where the folder should be")
    assert fastest({}, [1, 2], work(clock, {1: 0.4, 2: 0.5}, [])) == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", [{"padding": 1, "stride": 2}, {"bias": False, "padding": (0, 1)}, {"groups": 2}, {"dilation": 2}, {"padding": "same"}], ids=str)  # fmt: skip
def test_every_way_is_the_same_convolution(way: str, options: dict[str, Any]) -> None:
    draw = torch.Generator().manual_seed(0)
    layer = torch.nn.Conv2d(4, 6, 3, **options)
    x = torch.randn(3, 5, 4, 7, 8, generator=draw)
    parameters = {name: torch.randn(3, *p.shape, generator=draw).requires_grad_() for name, p in layer.named_parameters()}  # fmt: skip

    def outputs(functions: Any) -> tuple[torch.Tensor, ...]:
        def one(own: Any, x: Any) -> Any:
            with Replacing(functions):
                return torch.func.functional_call(layer, own, (x,))

        y = torch.func.vmap(one)(parameters, x)
        return y.detach(), *torch.autograd.grad(y.sin().sum(), list(parameters.values()))

    for got, wanted in zip(outputs({torch.conv2d: convolution(way)}), outputs({}), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_the_way_of_convolutions_changes_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("small_cnn", steps=4, batch_size=8, models=2, learning_rate=1e-4)
    table = plan.hyperparameters(range(2))
    zoos = {}
    for way in WAYS:
        monkeypatch.setattr(choices, "convolution_way", lambda *given, way=way: way)
        zoos[way] = train_population(plan.family, plan.config, plan.task, table, plan.recipe).parameters
    for name, values in zoos["grouped"].items():
        for way in WAYS:
            torch.testing.assert_close(
                torch.as_tensor(zoos[way][name]), torch.as_tensor(values), rtol=1e-4, atol=1e-6, msg=f"{name} {way}"
            )


def test_a_block_changes_no_mask_of_dropout() -> None:
    plan = plan_of("small_cnn", steps=3, batch_size=8, family_config={"dropout": 0.4})
    whole, without = (
        train_population(plan.family, config, plan.task, plan.hyperparameters(range(4)), plan.recipe).parameters
        for config in (plan.config, plan.config.model_copy(update={"dropout": 0.0}))
    )
    part = train_population(plan.family, plan.config, plan.task, plan.hyperparameters([1, 3]), plan.recipe).parameters
    for name, values in whole.items():
        torch.testing.assert_close(torch.as_tensor(part[name]), torch.as_tensor(values)[[1, 3]], rtol=1e-4, atol=1e-5)
    gap = torch.as_tensor(whole["head.weight"]) - torch.as_tensor(without["head.weight"])
    assert gap.abs().max() > 1e-3, "there were masks"


def test_masks_of_dropout_have_its_distribution() -> None:
    plan = plan_of("small_cnn", family_config={"dropout": 0.25})
    block = choices.Block(plan.family, plan.config, plan.task, plan.hyperparameters(range(3)))
    block.template = Thinning()
    block.parameters, block.buffers = {"one": torch.ones(3, 1)}, {}
    masks = [block.outputs_and(lambda y, _: y, block.data.train, torch.zeros(200, dtype=torch.long), train=True) for _ in range(2)]  # fmt: skip
    assert masks[0].unique().tolist() == pytest.approx([0, 4 / 3])
    assert masks[0].mean((1, 2)).tolist() == pytest.approx([1] * 3, abs=0.05)
    flat = [*masks[0].flatten(1), *masks[1].flatten(1)]
    assert all(not torch.equal(a, b) for i, a in enumerate(flat) for b in flat[:i]), "models and steps draw their own"
    still = block.outputs_and(lambda y, _: y, block.data.train, torch.zeros(5, dtype=torch.long), train=False)
    assert torch.equal(still, torch.ones_like(still))


class Thinning(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(self.one.expand(len(x), 50), 0.25, self.training)


def test_the_block_of_a_population_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METAZOO_CACHE", str(tmp_path))
    asked: list[Any] = []

    def answer(question: Any, candidates: Any, once: Any) -> Any:
        asked.append((question["choice"], list(candidates)))
        assert once(candidates[0])() == (16 if question["choice"] == "convolution" else candidates[0])
        return candidates[0]

    monkeypatch.setattr(choices, "fastest", answer)
    plan = plan_of("small_cnn", models=500, family_config={"channels": [2]}, batch_size=4)
    assert block_size(plan) == 16
    assert asked == [("convolution", list(WAYS)), ("block", [16, 32, 64, 128])]
    assert block_size(plan_of("small_cnn", models=500, block=7)) == 7
