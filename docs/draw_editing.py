"""Draws docs/images/editing.png: digits as unseen implicit networks show them, edited by a metanet, and as wanted.

    metazoo populate zoo siren --task digits_inr --models 1797 --name digits-inr --steps 200 --learning-rate 3e-3 --set 'hidden=[16,16]' --set omega=8.0
    python docs/draw_editing.py zoo digits-inr

Trains one editor a task, which takes some minutes, and prints test errors.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from metanets.editing import CONTROL, Gallery, edited_images, scored, trained_editor
from metanets.training import TrainingConfig
from metanets.weight_task import read_block, split_rows
from metanets.weight_tasks.contrast import contrast
from metanets.weight_tasks.dilate import dilate
from metanets.weight_tasks.rotate import rotate
from modelzoo.store import Zoo

EPOCHS, SHOWN = 8, 6


def main(zoo: str, population: str) -> None:
    """Train, print and draw."""
    gallery = Gallery.of(read_block(Zoo.open(zoo), population))
    test, train = split_rows(gallery.block, "test"), split_rows(gallery.block, "train")
    before = gallery.render(gallery.block.models(test)).detach()
    figure, axes = plt.subplots(3 * 3, SHOWN, figsize=(0.9 * SHOWN, 8.4), gridspec_kw={"hspace": 0.08, "wspace": 0.08})
    for k, operator in enumerate((dilate, contrast, rotate)):
        wanted = operator(gallery.images)
        mean = wanted[train].mean(0).expand_as(before)
        print(operator.__name__, scored("nothing", before, wanted[test]), scored("mean", mean, wanted[test]), flush=True)  # fmt: skip
        for name, fields in ((CONTROL, {}), ("graph_metanet", {"dropout": 0})):
            editor = trained_editor(gallery, operator, TrainingConfig.read(metanet=name, epochs=EPOCHS, fields=fields))
            after = edited_images(gallery, editor, test)
            print(operator.__name__, scored(name, after, wanted[test]), flush=True)
        rows = {"before": before, operator.__name__: after, "wanted": wanted[test]}
        for row, (title, images) in enumerate(rows.items()):
            for column in range(SHOWN):
                axis = axes[3 * k + row, column]
                axis.imshow(images[column].numpy(), cmap="gray", vmin=0, vmax=1)
                axis.set(xticks=[], yticks=[])
            axes[3 * k + row, 0].set_ylabel(title, fontsize=8)
    figure.savefig(Path(__file__).parent / "images" / "editing.png", dpi=110, bbox_inches="tight", metadata={"Software": None})  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:3])
