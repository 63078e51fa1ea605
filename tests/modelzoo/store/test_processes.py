"""A reader and a writer here, another writer in a second process, on one local zoo."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from modelzoo.errors import UserError
from modelzoo.store import Zoo
from tests.modelzoo.store.toys import small_batch, small_info, write_batches


def test_readers_see_whole_batches_and_writers_lose_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "zoo")
    zoo = Zoo.create(path)
    here = zoo.create_population(small_info())
    other = multiprocessing.get_context("spawn").Process(target=write_batches, args=(path, "small", 0, 8))
    other.start()
    seen, written = set(), 0
    while other.is_alive():
        population = Zoo.open(path)["small"]
        ids = population.table.index.to_numpy()
        assert len(ids) % 16 == 0, "a reader never sees half a batch"
        seen.add(len(ids))
        if len(ids):
            weights = population.stacked()["weight"]
            assert (weights == np.asarray(ids, dtype=np.float32)[:, None, None]).all()
        if 0 in ids and written < 5:
            here.append(small_batch(1000 + 16 * written))
            written += 1
    assert other.exitcode == 0
    assert len(seen) > 3, "reader and writers ran side by side"
    assert sorted(zoo["small"].table.index) == [*range(16 * 8), *range(1000, 1000 + 16 * written)]
    assert zoo.verify() == []
    assert len(zoo.history()) == 3 + 8 + written, "one commit a batch"
    with pytest.raises(UserError, match="already has model 0"):
        here.append(small_batch(0))


def test_a_zoo_made_by_several_at_once_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "zoo"
    with ThreadPoolExecutor(4) as pool:
        zoos = list(pool.map(lambda _: Zoo.open_or_create(path), range(4)))
    assert [zoo.names() for zoo in zoos] == [[]] * 4
    assert len({zoo.snapshot_id for zoo in zoos}) == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["zoo"], "nothing is left beside it"
    assert len(zoos[0].history()) == 2
