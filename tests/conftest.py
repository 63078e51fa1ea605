"""Fixtures that several packages' tests share."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is first imported, which torch may do at any time

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, settings

from metanets.runs import Run, RunRecord
from modelzoo import cli
from modelzoo.console import console, errors
from modelzoo.store import Population, Zoo
from modelzoo.training import PopulationConfig, populate

# A busy machine is no fault of the code: neither an example nor drawing it has a time limit.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share what takes long to make run in one worker, which makes it once.

    That is a file with fixtures of its own for the whole file, or else the tests of one file with the same first
    parameter, the architecture or operation they look at.
    """
    for item in items:
        if not isinstance(item, pytest.Function) or item.get_closest_marker("xdist_group"):
            continue
        file = item.nodeid.split("::")[0]
        fixtures = [definitions[-1] for definitions in item._fixtureinfo.name2fixturedefs.values()]
        if any(
            fixture.scope == "module" or (fixture.scope == "session" and fixture.baseid == file) for fixture in fixtures
        ):
            item.add_marker(pytest.mark.xdist_group(file))
        elif hasattr(item, "callspec"):
            item.add_marker(pytest.mark.xdist_group(f"{file} {item.callspec.id.split('-')[0]}"))


class Command(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    error: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def metazoo(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Command]:
    """`metazoo(*arguments)` as a shell would call it, on a wide terminal."""
    for one in (console, errors):
        monkeypatch.setattr(one, "width", 200)

    def run(*arguments: object) -> Command:
        monkeypatch.setattr(sys, "argv", ["metazoo", *map(str, arguments)])
        code = 0
        capsys.readouterr()
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, error = capsys.readouterr()
        assert "Traceback" not in error
        return Command(code, out, error)

    return run


@pytest.fixture(scope="session")
def small_zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Sixteen tiny SIRENs with three checkpoints, and twelve tiny CNNs of varied learning rate; made in seconds."""
    path = tmp_path_factory.mktemp("zoo") / "zoo"
    populate(path, PopulationConfig(family="siren", models=16, tiny=True, steps=60, checkpoint_every=30), progress=False)  # fmt: skip
    populate(path, PopulationConfig(family="small_cnn", models=12, tiny=True, steps=40, learning_rate="1e-3:1e-1"), progress=False)  # fmt: skip
    return Zoo.open(path)


@pytest.fixture(scope="session")
def small_runs(small_zoo: Zoo) -> Path:
    """Two runs beside the zoo, one of each kind, with weight statistics as embeddings and the mean as prediction."""
    folder = Path(small_zoo.path).parent / "runs"
    written_run(small_zoo["siren-digits-inr"], folder / "digit", "label")
    written_run(small_zoo["small-cnn-digits"], folder / "accuracy", "test_accuracy")
    return folder


def written_run(population: Population, path: Path, target: str) -> Run:
    """A run folder without a metanet behind it: it predicts every model's nearest neighbour in weight statistics."""
    stacked = population.stacked()
    features = np.stack([f(v.flatten(1).numpy(), axis=1) for v in stacked.values() for f in (np.mean, np.std)], 1)
    table = population.table
    true = table[target].to_numpy()
    gaps = np.square(features[:, None] - features).sum(-1) + np.diag(np.full(len(features), np.inf))
    predicted = true[gaps.argmin(1)]
    classes = tuple(sorted(set(true.tolist()))) if true.dtype.kind == "i" else ()
    record = RunRecord(
        metanet="statistics", config={}, zoo=population.zoo.path, populations=(population.name,),
        snapshot=population.snapshot_id, target=target, kind="classification" if classes else "regression",
        classes=classes, training={}, seed=0, parameters=0, created="2025-01-01T00:00:00+00:00",
    )  # fmt: skip
    run = Run(path, record)
    run.write()
    (path / "weights.safetensors").touch()
    pd.DataFrame({"epoch": [0, 1], "train_loss": [2.0, 1.0], "validation_loss": [2.0, 1.5]}).to_csv(path / "metrics.csv", index=False)  # fmt: skip
    score = {"accuracy": float((predicted == true).mean())} if classes else {"mean absolute error": float(np.abs(predicted - true).mean())}  # fmt: skip
    rows = pd.DataFrame({"population": population.name, "id": table.index, "split": table["split"].to_numpy(), "target": true, "prediction": predicted})  # fmt: skip
    return run.finish(rows, features, {str(split): score for split in table["split"].unique()}, 1.0)
