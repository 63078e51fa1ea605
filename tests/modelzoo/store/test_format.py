"""docs/format.md is executed, and zoos of every format version are read for ever."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from modelzoo.store import Zoo
from modelzoo.store.population import ENCODING
from modelzoo.store.zoo import ZOO_ENCODING
from tests.modelzoo.store.archive.make import FOLDER, summary
from tests.modelzoo.store.toys import odd_batch, same_bits

ARCHIVES = sorted(FOLDER.glob("zoo-*.zip"))
TEXT = (Path(__file__).parents[3] / "docs" / "format.md").read_text()


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.stem)
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    shutil.unpack_archive(request.param, tmp_path / "zoo")
    return tmp_path / "zoo", json.loads(request.param.with_suffix(".json").read_text())


def test_the_present_version_is_archived() -> None:
    assert FOLDER / f"zoo-{ZOO_ENCODING['encoding-version']}.zip" in ARCHIVES
    assert sum(path.stat().st_size for path in ARCHIVES) < 200_000 * len(ARCHIVES)


def test_an_archived_zoo_is_read_as_it_was_written(archive: tuple[Path, dict[str, Any]]) -> None:
    path, expected = archive
    zoo = Zoo.open(path)
    found = summary(zoo)
    assert found["history"] == expected["history"]
    arrays: Any = found["arrays"]
    assert set(arrays) == set(expected["arrays"])
    for name, values in expected["arrays"].items():
        if isinstance(values[0], list):
            assert arrays[name][:2] == values[:2], name
            np.testing.assert_allclose(arrays[name][2:], values[2:], rtol=1e-12, err_msg=name)
        else:
            assert arrays[name] == values, name
    assert zoo.verify() == []
    assert len(zoo.at("four")["odd"]) == 4
    assert same_bits(zoo["odd"].stacked(slice(4))["phase"], odd_batch(range(4)).parameters["phase"][:, 1])


def test_an_archived_model_still_computes(archive: tuple[Path, dict[str, Any]]) -> None:
    population = Zoo.open(archive[0])["perceptrons"]
    data, task = population.task.data().test, population.task
    for row in range(3):
        with torch.no_grad():
            score = task.score(population.module(row)(*data.inputs), data.targets)
        assert float(score) == pytest.approx(population.table["test_accuracy"].iloc[row], abs=0.003)


def test_an_archived_zoo_can_be_extended(archive: tuple[Path, dict[str, Any]]) -> None:
    zoo = Zoo.open(archive[0], writable=True)
    zoo["odd"].append(odd_batch([20]))
    assert zoo["odd"].table.index.tolist() == [*range(6), 20]


def test_the_snippet_of_the_page_reads_a_zoo(archive: tuple[Path, dict[str, Any]]) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, Any] = {"path": str(archive[0])}
    exec(snippet, names)
    population = Zoo.open(archive[0])["perceptrons"]
    ours = population.stacked()
    assert set(names["trained"]) == set(ours)
    for name, values in names["trained"].items():
        assert same_bits(torch.from_numpy(values), ours[name])
        assert (names["parameters"][name].isel(checkpoint=-1).values == values).all()
    assert names["accuracy"].tolist() == population.table["test_accuracy"].tolist()


def test_what_is_written_obeys_the_page(archive: tuple[Path, dict[str, Any]]) -> None:
    zoo = Zoo.open(archive[0])
    for encoding in (ZOO_ENCODING, ENCODING):
        assert " ".join(encoding.values()) in TEXT
    for population in zoo:
        assert set(population.group.attrs["population"]) == set(type(population.info).model_fields)
        for path in population.paths():
            array = population.array(path)
            folder, name = path.split("/")
            names = {"params": ("model", "checkpoint"), "buffers": ("model", "checkpoint"), "metrics": ("model", "step"), "columns": ("model",)}[folder]  # fmt: skip
            assert array.metadata.dimension_names == (*names, *(f"{name}_{axis}" for axis in range(array.ndim - len(names))))  # fmt: skip
            assert array.shape[0] == len(population)
            assert isinstance(array.compressors[-1], zarr.codecs.Crc32cCodec)
    columns = {path.removeprefix("columns/") for path in zoo["perceptrons"].paths() if path.startswith("columns/")}
    documented = set(re.findall(r"`(\w+)`", TEXT)) | {"id", "test_accuracy"}
    assert columns <= documented, "every column the trainer writes is explained"
    for key in type(zoo["odd"].info).model_fields:
        assert f"`{key}`" in TEXT
