"""What every backend of the store must do; `test_backends.py` runs it over each of them."""

import numpy as np
import pandas as pd
import pytest
import torch

import modelzoo.store.zoo as zoo_module
from modelzoo.errors import UserError
from modelzoo.family import families
from modelzoo.store import ModelBatch, Population, Zoo
from tests.modelzoo.store.toys import (
    Odd,
    OddConfig,
    odd_batch,
    odd_family,
    odd_info,
    same_bits,
    small_batch,
    small_info,
)


class StoreContract:
    """Inherited once per backend; the backend's class gives the fixture `place`."""

    @pytest.fixture
    def zoo(self, place: str, monkeypatch: pytest.MonkeyPatch) -> Zoo:
        monkeypatch.setitem(families.__globals__["_REGISTRY"], "odd", odd_family())
        return Zoo.open_or_create(place)

    @pytest.fixture
    def odd(self, zoo: Zoo) -> Population:
        population = zoo.create_population(odd_info())
        population.append(odd_batch(range(0, 20)))
        population.append(odd_batch(range(20, 45)))
        return population

    def test_every_tensor_comes_back_bit_equal(self, odd: Population) -> None:
        batches = [odd_batch(range(0, 20)), odd_batch(range(20, 45))]
        for part, kind in (("parameters", "parameters"), ("buffers", "buffers")):
            for checkpoint in (0, 1):
                read = odd.stacked(checkpoint=checkpoint, kind=kind)
                assert set(read) == set(getattr(batches[0], part))
                for name, values in read.items():
                    given = torch.cat([getattr(batch, part)[name][:, checkpoint] for batch in batches])
                    assert same_bits(values, given), name

    def test_a_tied_parameter_is_stored_once_and_stays_tied(self, odd: Population) -> None:
        assert "params/head.weight" not in odd.paths()
        assert "buffers/scratch" not in odd.paths()
        module = odd.module(3)
        assert module.head.weight is module.embedding.weight
        assert same_bits(module.head.weight, odd.stacked()["embedding.weight"][3])

    def test_a_module_is_the_model_of_its_row(self, odd: Population) -> None:
        module, token = odd.module(-1, checkpoint=0), torch.arange(5)
        assert not module.training
        expected = Odd(OddConfig()).eval()
        state = {name: values[-1] for name, values in odd.stacked(checkpoint=0, kind="state").items()}
        expected.load_state_dict(state, strict=False)
        assert same_bits(module(token), expected(token))
        with pytest.raises(UserError, match="no row 45"):
            odd.module(45)

    def test_a_changed_architecture_is_not_filled_with_old_weights(
        self, odd: Population, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Odd, "__init__", lambda self, config: torch.nn.Module.__init__(self))
        with pytest.raises(UserError, match="no longer has the parameters"):
            odd.module(0)

    def test_rows_can_be_chosen_in_every_way(self, odd: Population) -> None:
        everything = odd.stacked()["phase"]
        mask = odd.table["test_accuracy"].to_numpy() > 0.4
        for rows in (slice(3, 30), [44, 0, 7, 7], np.array([1, 2]), torch.tensor([5]), mask, slice(None, None, 3)):
            index = np.flatnonzero(rows) if isinstance(rows, np.ndarray) and rows.dtype == bool else rows
            assert same_bits(odd.stacked(rows)["phase"], everything[index])
        assert same_bits(odd.stacked([-1])["phase"], everything[[-1]])
        assert not same_bits(odd.stacked(checkpoint=0)["phase"], everything)
        with pytest.raises(UserError, match="checkpoints 0 to 1"):
            odd.stacked(checkpoint=2)

    def test_the_table_and_queries(self, zoo: Zoo, odd: Population) -> None:
        assert odd.table.index.tolist() == list(range(45))
        assert odd.table["split"].value_counts().to_dict() == {"train": 15, "validation": 15, "test": 15}
        found = odd.query("test_accuracy > 0.195 and split == 'test' or label in [3]")
        assert found.index.tolist() == sorted({*range(20, 45, 3), *range(3, 45, 10)})
        found = zoo.query("family == 'odd' and id < 2")
        assert found.index.tolist() == ["odd/0", "odd/1"]
        assert odd.positions([7, 3]).tolist() == [7, 3]
        with pytest.raises(UserError, match="no model 99"):
            odd.positions([99])

    def test_tables_of_different_populations_join(self, zoo: Zoo, odd: Population) -> None:
        zoo.create_population(odd_info("interrupted"))  # before its first model
        assert zoo.table()["label"].dtype == np.int64
        zoo.create_population(small_info()).append(small_batch(0))
        table = zoo.table()
        assert len(table) == 45 + 16
        assert table["id"].dtype == np.int64
        assert zoo.query("test_accuracy >= 0").shape[0] == 45, "a model without the column fulfils nothing"

    def test_xarray_reads_the_same_values(self, odd: Population) -> None:
        dataset = odd.to_xarray()
        assert dict(dataset.sizes)["model"] == 45
        assert dataset["params/phase"].dims == ("model", "checkpoint", "phase_0")
        assert dataset["checkpoint"].values.tolist() == [0, 5]
        assert dataset["step"].values.tolist() == [0, 2, 5]
        one = dataset.sel(model=12, checkpoint=5)
        for name, values in odd.stacked(kind="state").items():
            folder = "params" if f"params/{name}" in dataset else "buffers"
            assert same_bits(torch.from_numpy(np.asarray(one[f"{folder}/{name}"].values)), values[12]), name
        assert dataset["metrics/train_loss"].dims == ("model", "step")

    def test_curves(self, odd: Population) -> None:
        assert odd.metric_names() == ["train_loss"]
        assert odd.metrics("train_loss").shape == (45, 3)
        with pytest.raises(UserError, match="did you mean 'train_loss'"):
            odd.metrics("train_los")

    def test_history_tags_and_time_travel(self, zoo: Zoo, odd: Population) -> None:
        zoo.tag("first")
        before = zoo.snapshot_id
        odd.append(odd_batch(range(45, 50)))
        zoo.delete("odd")
        messages = [version.message for version in zoo.history()]
        assert messages[:4] == ["delete odd", "add 5 models to odd", "add 25 models to odd", "add 20 models to odd"]
        assert zoo.names() == []
        for name in ("first", before):
            past = zoo.at(name)
            assert len(past["odd"]) == 45
            assert same_bits(past["odd"].module(3).phase, odd_batch(range(0, 20)).parameters["phase"][3, 1])
            with pytest.raises(UserError, match="reading only"):
                past["odd"].append(odd_batch([90]))
        with pytest.raises(UserError, match="already exists"):
            zoo.tag("first")
        with pytest.raises(UserError, match="no snapshot or tag 'never'"):
            zoo.at("never").names()

    def test_deleting_models_leaves_the_others_alone(self, odd: Population) -> None:
        before = odd.stacked(kind="state")
        odd.delete_models([0, 44, 17])
        keep = [i for i in range(45) if i not in (0, 44, 17)]
        assert odd.table.index.tolist() == keep
        assert all(same_bits(values, before[name][keep]) for name, values in odd.stacked(kind="state").items())
        odd.append(odd_batch([17]))
        assert odd.table.index.tolist() == [*keep, 17]

    def test_deleting_every_model_leaves_an_empty_population(self, odd: Population) -> None:
        odd.delete_models(list(range(45)))
        assert len(odd) == 0
        assert odd.table.empty
        odd.append(odd_batch(range(3)))
        assert len(odd) == 3

    def test_copies_are_bit_equal_in_the_same_and_in_another_zoo(self, zoo: Zoo, odd: Population) -> None:
        for copy in (zoo.copy("odd", zoo, "twin"), zoo.copy("odd", Zoo.create("memory://"))):
            pd.testing.assert_frame_equal(copy.table, odd.table)
            assert copy.info.model_copy(update={"name": "odd"}) == odd.info
            for checkpoint in (0, 1):
                there, here = (p.stacked(checkpoint=checkpoint, kind="state") for p in (copy, odd))
                assert all(same_bits(there[name], here[name]) for name in here)
        with pytest.raises(UserError, match="already has a population 'odd'"):
            zoo.copy("odd", zoo)

    def test_verify_finds_what_is_wrong(self, zoo: Zoo, odd: Population) -> None:
        found = {(p.array, p.models, p.message) for p in zoo.verify()}
        assert not found, "the awkward values are in the first checkpoint, before training"
        bad = odd_batch([60, 61])
        bad.parameters["gain"][1, 1] = float("nan")
        odd.append(bad)
        assert [(p.array, p.models) for p in zoo.verify()] == [("params/gain", (61,))]

    def test_names_are_unique_and_usable(self, zoo: Zoo, odd: Population) -> None:
        with pytest.raises(UserError, match="already has a population 'odd'"):
            zoo.create_population(odd_info())
        for name in ("", "a/b", ".hidden", "x" * 101, "two words"):
            with pytest.raises(UserError, match="not usable"):
                zoo.create_population(odd_info(name))
        with pytest.raises(UserError, match="unknown population 'od'; did you mean 'odd'"):
            zoo["od"]
        with pytest.raises(UserError, match="unknown population 'od'"):
            zoo.delete("od")
        assert zoo.names() == ["odd"]

    def test_what_does_not_fit_is_refused_and_leaves_nothing(self, zoo: Zoo, odd: Population) -> None:
        before = zoo.snapshot_id
        with pytest.raises(UserError, match="already has model 7"):
            odd.append(odd_batch([50, 7]))
        with pytest.raises(UserError, match="same id"):
            odd.append(odd_batch([50, 50]))
        good = odd_batch([50, 51])
        for parameters in (
            {**good.parameters, "gain": good.parameters["gain"][:, :1]},  # a checkpoint is missing
            {name: values for name, values in good.parameters.items() if name != "gain"},
            {**good.parameters, "gain": good.parameters["gain"].double()},
            {**good.parameters, "gain": good.parameters["gain"][:1]},  # a model is missing
        ):
            with pytest.raises(ValueError):
                odd.append(ModelBatch(parameters, good.buffers, good.metrics, good.columns))
        with pytest.raises(ValueError, match="same arrays"):
            odd.append(ModelBatch(good.parameters, good.buffers, {}, good.columns))
        with pytest.raises(UserError, match="bfloat16"):
            odd.append(ModelBatch({**good.parameters, "gain": good.parameters["gain"].bfloat16()}, good.buffers, good.metrics, good.columns))  # fmt: skip
        assert zoo.snapshot_id == before
        assert len(odd) == 45

    def test_an_old_handle_appends_to_the_newest_state(self, zoo: Zoo, odd: Population) -> None:
        old = zoo["odd"]
        odd.append(odd_batch(range(45, 50)))
        with pytest.raises(UserError, match="already has model 45"):
            old.append(odd_batch(range(45, 50)))
        old.append(odd_batch(range(50, 52)))
        assert zoo["odd"].table.index.tolist() == list(range(52))
        old.delete_models([0])
        assert zoo["odd"].table.index.tolist() == list(range(1, 52))
        zoo.delete("odd")
        with pytest.raises(UserError, match="removed meanwhile"):
            old.append(odd_batch([99]))

    def test_a_reader_keeps_its_snapshot(self, zoo: Zoo, odd: Population) -> None:
        reader = zoo["odd"]
        odd.append(odd_batch(range(45, 50)))
        assert len(reader) == 45
        assert reader.stacked()["gain"].shape == (45,)
        assert reader.stacked(np.arange(45))["gain"].shape == (45,)
        reader.refresh()
        assert len(reader) == 50
        assert reader.stacked([49])["gain"].shape == (1,)

    def test_two_writers_at_once_conflict_or_both_win(
        self, zoo: Zoo, odd: Population, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without the lock between processes: the commit itself must notice."""
        from contextlib import nullcontext

        monkeypatch.setattr(zoo_module, "_lock", lambda path: nullcontext())
        with zoo.transaction("slow, another population") as root:
            root.create_group("elsewhere", attributes={"encoding-type": "none"})
            odd.append(odd_batch([50]))
        assert len(zoo["odd"]) == 46

        def overtaken() -> None:
            with zoo.transaction("slow") as root:
                array = root["odd/columns/label"]
                array[:] = 0
                array.resize(array.shape[0] + 1)
                odd.append(odd_batch([51]))

        with pytest.raises(UserError, match="another process changed the same population"):
            overtaken()
        assert zoo["odd"].table["label"].tolist() == [i % 10 for i in [*range(45), 50, 51]]

    def test_an_error_inside_a_transaction_changes_nothing(self, zoo: Zoo, odd: Population) -> None:
        before = zoo.snapshot_id

        def broken() -> None:
            with zoo.transaction("broken") as root:
                del root["odd"]
                raise KeyError("broken")

        with pytest.raises(KeyError):
            broken()
        assert zoo.snapshot_id == before
        assert "odd" in zoo

    def test_an_unknown_encoding_is_named(self, zoo: Zoo, odd: Population) -> None:
        with zoo.transaction("from the future") as root:
            root["odd"].attrs["encoding-version"] = "99.0.0"
        with pytest.raises(UserError, match=r"population 'odd' has the encoding metazoo-population 99.0.0"):
            zoo["odd"]
        assert [(p.population, "99.0.0" in p.message) for p in zoo.verify()] == [("odd", True)]
