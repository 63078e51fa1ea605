"""Mapped weights give the same training as weights in memory; streamed ones come once an epoch, in whole chunks."""

import tracemalloc
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import graphs
from metanets.baselines.function_probes import answers
from metanets.baselines.weight_statistics import features
from metanets.runs import Run
from metanets.statistics import weight_statistics
from metanets.training import TrainingConfig, WeightData, data, evaluate, train
from metanets.training.cost import Held
from metanets.training.reading import ChunkShuffle, DataMode, InMemory, Reading, Shuffle, Streamed, model_bytes, reading
from modelzoo.errors import UserError
from modelzoo.family import family
from modelzoo.store import ModelBatch, Population, PopulationInfo, Zoo, cache, manifest

CHUNK, MODELS = 32, 512
CONFIG = TrainingConfig.read(
    metanet="flat_mlp", fields={"width": 16}, target="test_accuracy", epochs=2, batch_size=24, learning_rate=1e-3
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """512 random perceptrons, 32 a chunk, whose target is the mean of their first biases."""
    path, found = tmp_path_factory.mktemp("reading") / "zoo", family("mlp")
    parameters, _ = manifest(found.build(found.config(hidden=(32,)), seed=0))
    population = Zoo.create(path).create_population(
        PopulationInfo(
            name="mlp", family="mlp", family_config={"hidden": (32,)}, task="digits", checkpoint_steps=(0, 1),
            parameters=parameters,
        )
    )  # fmt: skip
    for ids in np.split(np.arange(MODELS), [CHUNK]):
        draw = torch.Generator().manual_seed(int(ids[0]))
        tensors = {info.name: torch.randn(len(ids), 2, *info.shape, generator=draw) for info in parameters}
        columns = {
            "id": ids,
            "split": np.array([("train", "train", "validation", "test")[i % 4] for i in ids], object),
            "status": np.array(["diverged" if i == 9 else "ok" for i in ids], object),
            "test_accuracy": tensors["layers.0.bias"][:, 1].mean(1).numpy(),
        }
        population.append(ModelBatch(tensors, columns=columns))
    return path


@pytest.fixture(scope="module")
def group(path: Path) -> graphs.SymmetryGroup:
    population = Zoo.open(path)["mlp"]
    return graphs.infer(graphs.trace(population.template(), population.example_inputs()))


@pytest.fixture(autouse=True)
def small(path: Path, group: graphs.SymmetryGroup, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Room for two chunks in memory; the one architecture is traced once."""
    monkeypatch.setenv("METAZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(graphs, "trace", lambda *arguments: None)
    monkeypatch.setattr(graphs, "infer", lambda program: group)
    monkeypatch.setattr(data, "BUFFER_BYTES", 2 * CHUNK * model_bytes(Zoo.open(path)["mlp"]))


def opened(path: Path, mode: DataMode, seed: int = 0) -> WeightData:
    return WeightData(Zoo.open(path), ["mlp"], "test_accuracy", batch_size=24, seed=seed, mode=mode)


def run(path: Path, out: Path, mode: DataMode) -> Run:
    return train(path, ["mlp"], out, CONFIG.model_copy(update={"data": mode}), progress=False)


def test_the_way_of_reading_changes_nothing_but_the_order(path: Path, tmp_path: Path) -> None:
    memory, mapped, streamed = (run(path, tmp_path / mode, mode) for mode in ("memory", "mapped", "streamed"))
    pd.testing.assert_frame_equal(memory.curves, mapped.curves)
    pd.testing.assert_frame_equal(memory.table, mapped.table)
    assert (memory.embeddings == mapped.embeddings).all()
    assert streamed.table["id"].tolist() == memory.table["id"].tolist()
    assert not streamed.curves.equals(memory.curves), "another order is another training"
    np.testing.assert_allclose(streamed.curves["validation_loss"], memory.curves["validation_loss"], rtol=0.1)
    for done in (mapped, streamed):
        again = {row["split"]: row["r2"] for row in evaluate(done, populations=["mlp"])}
        assert again == pytest.approx({split: values["r2"] for split, values in done.record.metrics.items()}, abs=1e-5)


def test_a_streamed_training_goes_on_to_the_same_end(
    path: Path, tmp_path: Path, interrupted: Callable[[], AbstractContextManager[None]]
) -> None:
    whole = run(path, tmp_path / "whole", "streamed")
    with interrupted(), pytest.raises(UserError, match="stopped after 1 of 2 epochs"):
        run(path, tmp_path / "parts", "streamed")
    with pytest.raises(UserError, match="holds a run with data = 'streamed'"):
        run(path, tmp_path / "parts", "memory")
    pd.testing.assert_frame_equal(run(path, tmp_path / "parts", "streamed").curves, whole.curves)


def test_every_chunk_is_read_once_an_epoch(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    stacked = Population.stacked

    def counted(self: Population, rows: Any = None, *arguments: Any, **named: Any) -> Any:
        read.append(rows.start)
        return stacked(self, rows, *arguments, **named)

    monkeypatch.setattr(Population, "stacked", counted)

    def epoch(found: WeightData, number: int, steps: int | None = None) -> list[float]:
        loader = found.train_dataloader()
        loader.sampler.set_epoch(number)  # type: ignore[attr-defined]
        read.clear()
        return [target for batch in islice(loader, steps) for _, targets in batch for target in targets.tolist()]

    found = opened(path, "streamed")
    first = epoch(found, 0)
    assert sorted(read) == list(range(0, MODELS, CHUNK))
    assert sorted(first) == sorted(found.targets[found.rows("train")].tolist())
    assert epoch(opened(path, "streamed"), 0, 3) == first[: 3 * 24]
    assert epoch(found, 1, 3) != first[: 3 * 24] != epoch(opened(path, "streamed", seed=1), 0, 3)
    monkeypatch.setattr(WeightData, "_order", lambda self, rows: Shuffle(len(rows), self.seed))
    epoch(opened(path, "streamed"), 0, 3)
    assert len(read) > 2 * MODELS // CHUNK, "models in any order meet the chunks again and again"


def test_chunks_of_several_populations_come_mixed(path: Path, tmp_path: Path) -> None:
    zoo = Zoo.create(tmp_path / "zoo")
    for name in ("a", "b"):
        Zoo.open(path).copy("mlp", zoo, name)
    found = WeightData(zoo, ["a", "b"], "test_accuracy", batch_size=24, mode="streamed")
    rows, loader = np.array(found.rows("train")), found.train_dataloader()
    order = rows[list(loader.sampler)]
    assert sorted(order) == sorted(rows)
    assert {int(block) for block in found.where[order[:200], 0]} == {0, 1}
    sizes = [[len(models) for models, _ in batch] for batch in islice(loader, 4)]
    assert max(map(len, sizes)) == 2, "one batch holds models of both"
    assert max(len(block.reading.held) for block in found.blocks if isinstance(block.reading, Streamed)) <= 2


def test_a_buffer_of_chunks_is_shuffled_as_a_whole() -> None:
    chunks = np.repeat(np.arange(10), 7)
    order = np.array(list(ChunkShuffle(chunks, 4, seed=0)))
    assert sorted(order) == list(range(70))
    buffers = np.split(chunks[order], [28, 56])
    assert [len(set(part.tolist())) for part in buffers] == [4, 4, 2]
    assert not set(buffers[0]) & set(buffers[1])
    assert (np.diff(buffers[0]) != 0).mean() > 0.5, "chunks of a buffer are mixed"


def held_bytes(work: Callable[[], object]) -> int:
    """The most bytes that NumPy's arrays and torch's tensors hold at once, maps left out."""
    tracemalloc.start()
    try:
        with Held() as held:
            work()
        return tracemalloc.get_traced_memory()[1] + held.peak
    finally:
        tracemalloc.stop()


def test_what_is_mapped_or_streamed_need_not_fit_in_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "BUFFER_BYTES", CHUNK * model_bytes(Zoo.open(path)["mlp"]))
    monkeypatch.setattr(data, "FEWEST_SAMPLED", 1)
    found = opened(path, "streamed")
    (block,) = found.blocks
    positions = block.population.positions(block.table.index)

    def epoch(mode: DataMode) -> Callable[[], None]:
        def work() -> None:
            found.blocks = [replace(block, reading=reading(mode, Zoo.open(path)["mlp"], positions, data.BUFFER_BYTES))]
            assert sum(len(models) for models, _ in found.training_batch()) == CHUNK
            for _ in found.train_dataloader():
                pass

        return work

    epoch("streamed")()  # what is imported once
    bound = MODELS * model_bytes(block.population)
    assert held_bytes(epoch("mapped")) < bound
    assert held_bytes(epoch("streamed")) < bound
    assert held_bytes(epoch("memory")) > bound


def test_large_models_come_in_small_chunks(path: Path) -> None:
    population = Zoo.open(path)["mlp"]
    rows = np.arange(MODELS)
    assert Streamed(population, rows, 2**30).chunk == CHUNK
    assert Streamed(population, rows, 1).most == 2
    population.chunk_models = lambda path: {"params/layers.0.weight": 8}.get(path, CHUNK)  # type: ignore[method-assign]
    assert Streamed(population, rows, 8 * 20 * model_bytes(population)).chunk == 16


def test_requests_that_cannot_be_met(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"data: input should be 'memory', 'mapped' or 'streamed', got 'disk'\."):
        TrainingConfig.read(data="disk")
    (tmp_path / "file").touch()
    monkeypatch.setenv("METAZOO_CACHE", str(tmp_path / "file"))
    assert cache.folder() == tmp_path / "file" / "arrays"
    with pytest.raises(UserError, match=r"cannot copy population 'mlp' to .*; set METAZOO_CACHE"):
        run(path, tmp_path / "out", "mapped")
    assert not (tmp_path / "out").exists()


def test_baselines_read_a_few_models_at_a_time_and_get_the_same_features(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, in all three ways and as from all weights at once, which nobody asks for."""
    whole = weight_statistics(opened(path, "memory").blocks[0].tensors)
    monkeypatch.setattr(Reading, "everything", lambda self: pytest.fail("all weights were asked for"))
    monkeypatch.setattr(InMemory, "everything", lambda self: pytest.fail("all weights were asked for"))
    modes: tuple[DataMode, ...] = ("memory", "mapped", "streamed")
    for mode in modes:
        pd.testing.assert_frame_equal(features(opened(path, mode).blocks[0]), whole, check_exact=True)
    probed = [answers(opened(path, mode)) for mode in modes]
    assert (probed[0] == probed[1]).all()
    assert (probed[0] == probed[2]).all()
    assert len(np.unique(probed[0], axis=0)) == MODELS - 1, "and no two models answer alike"
    with pytest.raises(pytest.fail.Exception, match="all weights"):
        assert opened(path, "streamed").blocks[0].tensors
