"""Editing implicit images: operators by hand, rendering against the zoo, and that training edits unseen models."""

from pathlib import Path

import pytest
import torch

from metanets.editing import Gallery, edited_images, scored, trained_editor
from metanets.training import TrainingConfig
from metanets.weight_task import read_block, split_rows, weight_task
from metanets.weight_tasks.contrast import contrast
from metanets.weight_tasks.dilate import dilate
from metanets.weight_tasks.rotate import rotate
from modelzoo.errors import UserError
from modelzoo.store import Zoo
from modelzoo.training import PopulationConfig, populate


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """64 SIRENs of digits."""
    path = tmp_path_factory.mktemp("editing") / "zoo"
    config = PopulationConfig.read(family="siren", task="digits_inr", models=64, tiny=True, steps=150)
    populate(path, config, "digits", progress=False)
    return Gallery.of(read_block(Zoo.open(path), "digits"))


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
    assert scored("", shown, gallery.images)["mse"] < 5e-3
    assert scored("", shown, gallery.images.roll(1, 0))["mse"] > 5e-2
    first = gallery.block.population.module(0)(gallery.grid).view(8, 8)
    torch.testing.assert_close(shown[0], first, rtol=1e-4, atol=1e-5)


def test_an_editor_makes_unseen_models_bolder(gallery: Gallery) -> None:
    """Nearly a third of the error of changing nothing goes; the images it makes are nearer to their own wanted image than to another's."""
    config = TrainingConfig.read(metanet="graph_metanet", epochs=20, batch_size=16, fields={"width": 16, "signals": 64, "dropout": 0.0})  # fmt: skip
    editor = trained_editor(gallery, dilate, config)
    test = split_rows(gallery.block, "test")
    wanted = dilate(gallery.images)[test]
    before = scored("", gallery.render(gallery.block.models(test)), wanted)["mse"]
    images = edited_images(gallery, editor, test)
    after = scored("", images, wanted)["mse"]
    assert after < 0.7 * before
    assert scored("", images, wanted.roll(1, 0))["mse"] > 1.5 * after


def test_what_holds_no_images_is_refused(metanet_zoo: Path) -> None:
    with pytest.raises(UserError, match="no implicit representations of square grey images"):
        weight_task("dilate").measure(read_block(Zoo.open(metanet_zoo), "mlp"), TrainingConfig())
