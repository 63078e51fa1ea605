"""Memory-mapped copies: right values, one per array, replaced when the population changes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelzoo.errors import UserError
from modelzoo.store import Population, Zoo, cache
from tests.modelzoo.store.toys import small_batch, small_info


@pytest.fixture
def population(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Population:
    monkeypatch.setenv("METAZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "IN_MEMORY_BYTES", 0)
    population = Zoo.create(tmp_path / "zoo").create_population(small_info())
    population.append(small_batch(0))
    return population


def test_a_copy_is_mapped_reused_and_replaced(population: Population) -> None:
    weight = population.stacked([3, 9, 3])["weight"]
    assert weight[:, 0, 0].tolist() == [3, 9, 3]
    assert isinstance(cache.memory_mapped(population, "params/weight"), np.memmap)
    (file,) = cache.folder().iterdir()
    written = file.stat().st_mtime_ns
    assert torch.equal(population.zoo["small"].stacked([9])["weight"], weight[1:2])
    assert file.stat().st_mtime_ns == written, "another reader of the same snapshot uses the same copy"
    weight += 1
    assert population.stacked([3])["weight"][0, 0, 0] == 3, "what is handed out is not the cache itself"
    population.append(small_batch(16))
    assert population.stacked([20])["weight"][0, 0, 0] == 20
    assert len(list(cache.folder().iterdir())) == 1, "copies of older snapshots are gone"


def test_without_room_for_copies_memory_has_to_do(population: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_2_0", full)
    assert population.stacked([3])["weight"][0, 0, 0] == 3
    with pytest.raises(UserError, match="cannot copy population 'small'"):
        population.mapped()
    assert list(cache.folder().iterdir()) == []


def test_maps_hold_what_the_zoo_holds_and_are_written_chunk_by_chunk(
    population: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    population.append(small_batch(16))
    asked, read = [], Population._read

    def counted(self: Population, path: str, selection: Any = slice(None), array: Any = None) -> Any:
        values = read(self, path, selection, array)
        asked.append(len(values))
        return values

    whole = population.stacked(kind="state")
    with monkeypatch.context() as patch:
        patch.setattr(Population, "_read", counted)
        mapped = population.mapped(kind="state")
    assert max(asked) == population.chunk_models("params/weight") < len(population)
    assert mapped.keys() == whole.keys()
    for name, values in mapped.items():
        assert torch.equal(values, whole[name])
    first = population.mapped(0)["weight"]
    assert torch.equal(first, population.stacked(checkpoint=0)["weight"])
    first[:] = 7  # a copy on write
    assert torch.equal(population.zoo["small"].mapped()["weight"], whole["weight"])
