"""Editing implicit images: operators by hand, rendering against the zoo, and that training edits unseen models."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from metanets.editing import Editor, Gallery, build_editor
from metanets.training import TrainingConfig
from metanets.weight_task import read_block, split_rows, weight_task, weight_tasks
from metanets.weight_tasks.contrast import contrast
from metanets.weight_tasks.dilate import dilate
from metanets.weight_tasks.rotate import rotate
from metanets.weight_training import train_experiment
from metanets.weight_update import SMALL
from modelzoo.errors import UserError
from modelzoo.store import Zoo
from modelzoo.training import PopulationConfig, populate
from tests.conftest import Command


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """64 SIRENs of digits."""
    path = tmp_path_factory.mktemp("editing") / "zoo"
    config = PopulationConfig.read(family="siren", task="digits_inr", models=64, tiny=True, steps=150)
    populate(path, config, "digits", progress=False)
    return Gallery.of(read_block(Zoo.open(path), "digits"))


def mse(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).square().mean())


def test_operators_by_hand() -> None:
    image = torch.zeros(1, 5, 5)
    image[0, 1, 2] = 0.6
    wide = dilate(image)[0]
    assert wide.nonzero().tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]
    assert contrast(torch.tensor([[[0.1, 0.5, 0.7, 0.9]]])).tolist()[0][0] == pytest.approx([0, 0.5, 0.9, 1])
    top = torch.zeros(1, 5, 5)
    top[0, 0, 2] = 1.0
    assert rotate(top)[0].argmax() == 1, "what is above the centre goes to the left"


def test_models_render_the_images_they_were_trained_on(gallery: Gallery) -> None:
    """The control: another order of the images is far off."""
    shown = gallery.render(gallery.block.models(torch.arange(64)))
    assert mse(shown, gallery.images) < 5e-3
    assert mse(shown, gallery.images.roll(1, 0)) > 5e-2
    first = gallery.block.population.module(0)(gallery.grid).view(8, 8)
    torch.testing.assert_close(shown[0], first, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("metanet", ["dwsnet", "nfn"])
def test_an_untrained_edit_is_small(gallery: Gallery, metanet: str) -> None:
    """Relative to the weights of every kind and depth; the control: without the unit that of `dwsnet` is not."""
    torch.manual_seed(0)
    update = build_editor(gallery, TrainingConfig.read(metanet=metanet)).update.eval()
    models = gallery.block.models(torch.arange(64))
    sizes = update.statistics.size[models.topology.edge_kind, models.topology.edge_depth_bin][:, None]

    def relative() -> float:
        return float((update(models) / sizes).square().mean().sqrt())

    assert relative() < 2 * SMALL
    if metanet == "dwsnet":
        update.unit = torch.ones(())
        assert relative() > 20 * SMALL


@torch.no_grad()
def test_an_editor_makes_unseen_models_bolder(gallery: Gallery, tmp_path: Path) -> None:
    """Nearly a third of the error of changing nothing goes; the images it makes are nearer to their own wanted image than to another's."""
    config = TrainingConfig.read(metanet="graph_metanet", epochs=20, batch_size=16, fields={"width": 16, "signals": 64, "dropout": 0.0})  # fmt: skip
    experiment = weight_task("dilate").experiment(gallery.block, config)
    with torch.enable_grad():
        editor = train_experiment(experiment, config, tmp_path)
    assert isinstance(editor, Editor)
    test = split_rows(gallery.block, "test")
    wanted = dilate(gallery.images)[test]
    images = gallery.render(editor(gallery.block.models(test)))
    after = mse(images, wanted)
    assert experiment.measure()["mse"] == pytest.approx(after)
    assert after < 0.7 * experiment.baselines()["nothing changed"]["mse"]
    assert mse(images, wanted.roll(1, 0)) > 1.5 * after


def test_what_holds_no_images_is_refused(metanet_zoo: Path) -> None:
    with pytest.raises(UserError, match="no implicit representations of square grey images"):
        weight_task("dilate").experiment(read_block(Zoo.open(metanet_zoo), "mlp"), TrainingConfig())


def test_the_command_lists_measures_and_refuses(
    gallery: Gallery, metazoo: Callable[..., Command], tmp_path: Path
) -> None:
    code, out, _ = metazoo("weight-tasks", "--json")
    assert code == 0
    fields = {row["task"]: row["fields"] for row in json.loads(out)}
    assert set(fields) == set(weight_tasks())
    assert (fields["dilate"], fields["lineage"]) == ("expansion=0,rendered=true", "")
    zoo, flat = gallery.block.population.zoo.path, ("--metanet", "flat_mlp", "--out", tmp_path)
    command = ("weight-task", "contrast", zoo, "digits", *flat, "--epochs", 1)
    code, out, error = metazoo(*command, "--json")
    assert code == 0, error
    methods = [row["method"] for row in json.loads(out) if row["metric"] == "mse"]
    assert methods == ["nothing changed", "the mean edited image for all", "flat_mlp, untrained", "flat_mlp"]
    for arguments, said in (
        (("dilat", zoo, "digits"), "did you mean 'dilate'?"),
        (("dilate", zoo, "digits", "--metanet", "sane", "--out", tmp_path), "keeps no state of single weights"),
        (("dilate", zoo, "digits", *flat, "--learning-rate", "1e30", "--epochs", "3"), "lower --learning-rate"),
        (("contrast", zoo, "digits", *flat, "--epochs", "2"), "with epochs = 1, now it is 2"),
        (("contrast", zoo, "digits", "--metanet", "flat_mlp+noise", "--out", tmp_path), "not a metanet alone"),
    ):  # fmt: skip
        code, out, error = metazoo("weight-task", *arguments)
        assert (code > 0, out) == (True, "")
        assert said in error.strip().splitlines()[-1]
    code, out, error = metazoo("weight-task", "contrast,expansion=3", *command[2:], "--json")
    assert code == 0, error
    code, out, _ = metazoo("weight-leaderboard", tmp_path, "--json")
    assert code == 0
    for task in ("contrast", "contrast,expansion=3"):
        stored = [row for row in json.loads(out) if (row["task"], row["metric"]) == (task, "mse")]
        assert [row["method"] for row in stored] == methods
