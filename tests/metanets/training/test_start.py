"""Trainings that start from another: exactly what they have in common is taken over, and what does not fit is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from metanets import leaderboard
from metanets.contender import Contender
from metanets.metanet import metanet
from metanets.runs import Run
from metanets.training import TrainingConfig, train
from metanets.training.start import Start
from metanets.weight_board import Bench
from modelzoo.errors import UserError
from tests.conftest import Command

TINY = {**metanet("graph_metanet").tiny, "probes": 0}
STILL = TrainingConfig.read(  # an optimizer that moves nothing: a run keeps the weights that it starts from
    target="test_accuracy", epochs=1, batch_size=16, learning_rate=1e-60, fields=TINY, seed=7
)


@pytest.fixture(scope="module")
def masked(metanet_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny metanet that filled in weights of perceptrons for an epoch."""
    bench = Bench("masked_weights", metanet_zoo, "mlp", tmp_path_factory.mktemp("pretrained"), {"epochs": 1, "batch_size": 32})  # fmt: skip
    text = "graph_metanet," + ",".join(f"{key}={value}" for key, value in TINY.items())
    bench.trained(Contender.read(text), 0)
    return bench.place(Contender.read(text).folder, 0)


def started(zoo: Path, out: Path, **settings: object) -> Run:
    return train(zoo, ["mlp"], out, STILL.model_copy(update=settings), progress=False)


def weights(run: Run) -> dict[str, Tensor]:
    found = load_file(run.path / "weights.safetensors")
    return {name.removeprefix("metanet."): tensor for name, tensor in found.items() if name.startswith("metanet.")}


def test_all_but_the_head_is_taken_over(masked: Path, metanet_zoo: Path, tmp_path: Path) -> None:
    """Bit for bit, from a weight task and from a run; without it every parameter with chance in it is another."""
    before = {n.removeprefix("metanet."): t for n, t in load_file(masked / "weights.safetensors").items() if n.startswith("metanet.")}  # fmt: skip
    fresh = started(metanet_zoo, tmp_path / "fresh")
    taken = started(metanet_zoo, tmp_path / "taken", start_from=str(masked))
    third = metanet("graph_metanet").build(metanet("graph_metanet").configure(taken.record.config), seed=8)
    count = Start.read(taken.path, "graph_metanet").take(third)
    own, new, again = weights(fresh), weights(taken), third.state_dict()
    shared = {name: tensor for name, tensor in before.items() if "head" not in name.split(".")}
    assert own.keys() == new.keys() == again.keys()
    assert own.keys() == before.keys() | {n for n in own if n.startswith("readout.head.regressions.")}
    for name, tensor in shared.items():
        assert torch.equal(new[name], tensor), name
        assert torch.equal(again[name], tensor), name
    head = next(name for name, tensor in before.items() if name not in shared and tensor.ndim > 1)
    assert torch.equal(new[head], own[head]), "that of its seed"
    assert len({float(found[head].sum()) for found in (before, new, again)}) == 3
    assert not torch.equal(own["encoder.kind.weight"], before["encoder.kind.weight"])
    assert taken.record.taken_over == count == len(shared)
    assert taken.record.training["start_from"] == str(masked)
    assert (fresh.record.taken_over, fresh.record.training["start_from"]) == (None, None)
    with pytest.raises(UserError, match="holds a run with start_from"):
        started(metanet_zoo, tmp_path / "taken")


def test_a_metanet_that_also_probes_takes_over_all_but_the_readout(masked: Path) -> None:
    chosen = metanet("graph_metanet")
    network = chosen.build(chosen.configure({**TINY, "probes": 3, "probe_shape": (1, 8, 8), "probe_outputs": 10}), 1)
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    Start.read(masked, "graph_metanet").take(network)
    before = load_file(masked / "weights.safetensors")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, fresh[name] if name.startswith("readout.") else before[f"metanet.{name}"]), name
    assert not torch.equal(fresh["encoder.kind.weight"], before["metanet.encoder.kind.weight"])


def test_what_does_not_fit_is_refused_and_nothing_is_changed(masked: Path, metanet_zoo: Path, tmp_path: Path) -> None:
    for settings, said in (
        ({"metanet": "neuron_deepsets", "fields": {}}, "holds a graph_metanet, which a neuron_deepsets cannot start from"),
        ({"fields": {**TINY, "width": 4}}, r"of shape \[\d+, 8\], here it is \[\d+, 4\]; take the fields"),
        ({"start_from": str(tmp_path)}, "holds no training to start from"),
        ({"start_from": str(masked.parents[1] / "baselines" / "seed-0")}, "holds no"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            started(metanet_zoo, tmp_path / "run", **{"start_from": str(masked), **settings})
        assert not (tmp_path / "run").exists()
    found = Start.read(masked, "graph_metanet")
    other = metanet("graph_metanet").build(metanet("graph_metanet").configure({**TINY, "width": 4}), seed=0)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(UserError, match="of shape"):
        found.take(other)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_weights_at_other_places_are_refused() -> None:
    """Where tensors of two architectures have equal shapes, the order of their entries tells them apart."""
    network = metanet("flat_mlp").build(metanet("flat_mlp").configure({"entries": 6, "width": 4}), seed=0)
    network.register_buffer("index_0", torch.arange(6))
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items() if "head" not in name}
    assert Start("there", tensors).take(network) == len(tensors)
    with pytest.raises(UserError, match=r"at other places \(index_0\)"):
        Start("there", {**tensors, "index_0": torch.arange(6).flip(0)}).take(network)
    with pytest.raises(UserError, match="nothing that this metanet could start from"):
        Start("there", {"functional.first": torch.zeros(3)}).take(network)


def test_contenders_of_a_leaderboard_start_from_it_too(
    masked: Path, metanet_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"graph_metanet,probes=0@{masked}"
    configs: list[TrainingConfig] = []

    def told(zoo: str, populations: list[str], out: Path, config: TrainingConfig, **rest: object) -> Run:
        configs.append(config)
        raise UserError("enough")

    monkeypatch.setattr(leaderboard, "train", told)
    with pytest.raises(UserError, match="enough"):
        leaderboard.run(metanet_zoo, ["mlp"], tmp_path / "board", ["test_accuracy"], [text], 1, {"models": 8})
    assert [(c.start_from, c.models, c.fields) for c in configs] == [(str(masked), 8, {"probes": 0})]
    assert Contender.read("graph_metanet,probes=0").start_from is None
    for wrong, said in ((f"nfn@{masked}", "holds a graph_metanet"), (f"function_probes@{masked}", "starts from nothing")):  # fmt: skip
        with pytest.raises(UserError, match=said):
            leaderboard.run(metanet_zoo, ["mlp"], tmp_path / "no", ["test_accuracy"], [wrong], 1)
    assert not (tmp_path / "no").exists()


def test_the_command_starts_from_a_folder(
    masked: Path, metanet_zoo: Path, tmp_path: Path, metazoo: Callable[..., Command]
) -> None:
    tiny = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
    command = ("train", metanet_zoo, "mlp", "--target", "test_accuracy", "--epochs", 1, "--models", 8, *tiny)
    code, out, error = metazoo(*command, "--out", tmp_path / "run", "--start-from", masked)
    assert code == 0, error
    assert "of its tensors" in out
    code, out, error = metazoo(*command, "--out", tmp_path / "none", "--start-from", tmp_path)
    assert (code > 0, out) == (True, "")
    assert "holds no training to start from" in error.replace("\n", " ")
