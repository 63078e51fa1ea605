"""Damaged bytes, full and read-only disks, and places that are no zoo."""

import multiprocessing
import os
import re
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from modelzoo.errors import UserError
from modelzoo.store import Population, Zoo
from tests.modelzoo.store.toys import small_batch, small_info

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    zoo = Zoo.create(tmp_path / "zoo")
    population = zoo.create_population(small_info())
    population.append(small_batch(0))
    population.append(small_batch(16))
    return zoo


def chunk_files(zoo: Zoo) -> list[Path]:
    """Files of chunks, the newest tensors (16 × 4 × 3 floats with their checksum) last."""
    return sorted((Path(zoo.path) / "chunks").iterdir(), key=lambda file: (file.stat().st_size, file.stat().st_mtime))


def flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    middle = len(raw) // 3
    raw[middle : middle + 4] = bytes(value ^ 0xFF for value in raw[middle : middle + 4])
    file.write_bytes(raw)


def reopened(zoo: Zoo) -> Population:
    return Zoo.open(zoo.path)["small"]


@pytest.fixture
def noisy(tmp_path: Path) -> Zoo:
    """Two batches of random weights: incompressible, so every batch is a file of its own."""
    zoo = Zoo.create(tmp_path / "zoo")
    population = zoo.create_population(small_info())
    for first in (0, 16):
        batch = small_batch(first)
        batch.parameters["weight"].copy_(torch.randn(16, 1, 4, 3, generator=torch.Generator().manual_seed(first)))  # type: ignore[union-attr]
        population.append(batch)
    return zoo


@pytest.mark.parametrize("how", ["flipped", "missing", "cut"])
def test_a_damaged_chunk_is_named_and_the_rest_is_readable(noisy: Zoo, how: str) -> None:
    file = chunk_files(noisy)[-1]
    if how == "flipped":
        flip(file)
    elif how == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:200])
    population = reopened(noisy)
    with pytest.raises(UserError) as caught:
        population.stacked()
    first = int(re.search(r"\(models (\d+), ", str(caught.value))[1])  # type: ignore[index]
    assert first in (0, 16), "one batch of sixteen"
    assert "'params/weight' of population 'small'" in str(caught.value)
    healthy = 16 - first
    expected = torch.randn(16, 1, 4, 3, generator=torch.Generator().manual_seed(healthy))[:, 0]
    assert torch.equal(population.stacked(slice(healthy, healthy + 16))["weight"], expected)
    assert torch.equal(population.stacked([healthy + 3])["weight"], expected[3:4])
    assert len(population.table) == 32
    with pytest.raises(UserError, match="damaged"):
        population.stacked([first])
    problems = Zoo.open(noisy.path).verify()
    assert [(p.population, p.array, p.models) for p in problems] == [
        ("small", "params/weight", tuple(range(first, first + 16)))
    ]


def test_a_damaged_manifest_is_an_error_of_one_sentence(noisy: Zoo) -> None:
    for file in (Path(noisy.path) / "manifests").iterdir():
        flip(file)
    with pytest.raises(UserError, match="damaged"):
        reopened(noisy).stacked()
    assert {p.array for p in Zoo.open(noisy.path).verify()} >= {"params/weight"}


def test_places_that_are_no_zoo(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no zoo at"):
        Zoo.open(tmp_path / "absent")
    file = tmp_path / "file"
    file.write_text("hello")
    for place in (tmp_path, file):
        with pytest.raises(UserError, match="is not a zoo"):
            Zoo.open(place)
        with pytest.raises(UserError, match="is not a zoo"):
            Zoo.open_or_create(place) if place is tmp_path else Zoo.open(place, writable=True)
    with pytest.raises(UserError, match="is a file"):
        Zoo.create(file)
    with pytest.raises(UserError, match="is not empty"):
        Zoo.create(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is not a zoo"):
        Zoo.open(tmp_path / "empty")
    assert len(Zoo.open_or_create(tmp_path / "empty")) == 0


def test_an_unknown_encoding_of_the_zoo_is_named(zoo: Zoo) -> None:
    with zoo.transaction("from the future") as root:
        root.attrs["encoding-version"] = "2.0.0"
    with pytest.raises(UserError, match=r"encoding metazoo-zoo 2\.0\.0, this version of metazoo reads metazoo-zoo 1"):
        Zoo.open(zoo.path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small disk needs root; the test with a limited file size runs everywhere")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_and_a_read_only_disk(small_disk: Path) -> None:
    zoo = Zoo.create(small_disk / "zoo")
    population = zoo.create_population(small_info())

    def fill() -> None:
        for first in range(0, 16 * 200, 16):
            population.append(small_batch(first))

    with pytest.raises(UserError, match="no space left on device; nothing was changed"):
        fill()
    stored = len(population)
    assert 0 < stored < 16 * 200
    assert len(Zoo.open(zoo.path)["small"]) == stored
    assert zoo.verify() == []
    with pytest.raises(UserError, match="no space left on device"):
        Zoo.create(small_disk / "another")
    assert [entry.name for entry in small_disk.iterdir()] == ["zoo"]
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert len(Zoo.open(zoo.path)["small"]) == stored
    for change in (
        lambda: population.append(small_batch(10_000)),
        lambda: zoo.delete("small"),
        lambda: zoo.tag("t"),
        lambda: Zoo.create(small_disk / "third"),
    ):
        with pytest.raises(UserError, match="read-only file system"):
            change()


def append_with_limited_files(path: str) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    population = Zoo.open(path, writable=True)["small"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
    with pytest.raises(UserError, match="file too large; nothing was changed"):
        population.append(small_batch(32))


def test_a_write_that_the_system_refuses_half_way(noisy: Zoo) -> None:
    child = SPAWN.Process(target=append_with_limited_files, args=(noisy.path,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert len(reopened(noisy)) == 32
    assert Zoo.open(noisy.path).verify() == []


def test_a_zoo_opened_for_reading_refuses_to_write(zoo: Zoo) -> None:
    reader = Zoo.open(zoo.path)
    with pytest.raises(UserError, match="open for reading only"):
        reader["small"].append(small_batch(32))
    with pytest.raises(UserError, match="open for reading only"):
        reader.delete("small")
