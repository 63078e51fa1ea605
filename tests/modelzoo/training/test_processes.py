"""Populating with several processes: the same zoo, and one sentence when a process fails."""

import os
import pickle
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from modelzoo.errors import UserError
from modelzoo.store import Zoo
from modelzoo.training import Plan, PopulationConfig, populate, processes, train_population
from tests.modelzoo.training.test_populate import same
from tests.modelzoo.training.toys import register_toys


def config_of(family: str, **fields: Any) -> PopulationConfig:
    return PopulationConfig.read(family=family, **{"models": 5, "block": 2, "tiny": True, **fields})


@pytest.mark.slow
def test_the_zoo_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    """Each process imports torch; the fast twins are the other tests of this file."""
    for family, fields in {"dense_hebbian": {}, "mlp": {"steps": 3, "gradient_clip": 1.0}}.items():
        config = config_of(family, **fields)
        one, two = (populate(tmp_path / f"{family}{n}", config, progress=False, processes=n) for n in (1, 2))
        assert same(one, two)
        assert two.table.index.tolist() == list(range(5)), "in order"
        assert len(Zoo.open(tmp_path / f"{family}2").history()) == len(Zoo.open(tmp_path / f"{family}1").history())
        other = populate(tmp_path / f"{family}3", config_of(family, **fields, seed=1), progress=False, processes=1)
        assert not same(one, other), "the comparison sees another seed"


def test_what_comes_back_from_elsewhere_is_what_is_trained_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    plan = Plan.of(config_of("mlp", steps=3, gradient_clip=1.0))
    here, other = (next(processes.trained(plan, [ids], 1, lambda *_: None)) for ids in ([3, 4], [2, 3]))
    elsewhere = pickle.loads(processes.train_elsewhere(plan.source, [3, 4]))
    for name, values in here.parameters.items():
        assert torch.equal(values, elsewhere.parameters[name])
        assert not torch.equal(values, other.parameters[name])
    words = r"training models -1 to -1 failed in a process of its own \(ValueError: .*\); --processes 1 shows where"
    with pytest.raises(UserError, match=words):
        processes.train_elsewhere(plan.source, [-1])


def test_a_process_that_dies_is_one_sentence_and_what_was_committed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    populate(tmp_path / "zoo", config_of("mlp", steps=3, models=2), progress=False)
    monkeypatch.setattr(processes.joblib, "delayed", lambda function: lambda *given: (os._exit, (1,), {}))
    words = "one of 2 training processes was stopped, perhaps for lack of memory; what was committed stays, run the same command"
    with pytest.raises(UserError, match=words):
        populate(tmp_path / "zoo", config_of("mlp", steps=3), progress=False, processes=2)
    zoo = Zoo.open(tmp_path / "zoo")
    assert len(zoo["mlp-digits"]) == 2
    assert zoo.verify() == []
    with pytest.raises(UserError, match="processes must be at least 1, got 0"):
        populate(tmp_path / "zoo", config_of("mlp", steps=3), progress=False, processes=0)


def test_models_without_lock_step_are_shared_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is trained here, and tells whether others should help."""
    register_toys(monkeypatch)
    plan = Plan.of(PopulationConfig.read(family="branching", models=5, steps=2))
    shares: list[int] = []

    def train(*given: Any) -> Any:
        shares.append(len(given[3]))
        return train_population(*given)

    monkeypatch.setattr(processes, "train_population", train)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    seen: list[float] = []
    blocks = list(processes.trained(plan, [[0, 1, 2], [3, 4]], None, lambda models, _: seen.append(models)))
    assert [own.columns["id"].tolist() for own in blocks] == [[0, 1, 2], [3, 4]]
    assert shares == [1] * 5
    assert seen == [1, 2, 3, 1, 2]
    torch.set_num_threads(1)  # with two the last bits are others
    whole = train_population(plan.family, plan.config, plan.task, plan.hyperparameters([0, 1, 2]), plan.recipe)
    for name, values in whole.parameters.items():
        assert torch.equal(torch.as_tensor(values), torch.as_tensor(blocks[0].parameters[name]))
    asked: list[int] = []
    monkeypatch.setattr(processes, "WORTH", -1.0)
    monkeypatch.setattr(processes.joblib, "parallel_config", lambda *_, n_jobs, **__: asked.append(n_jobs) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(processes.trained(plan, [[0, 1, 2]], None, lambda *_: None))
    assert asked == [2], "long training is shared"
