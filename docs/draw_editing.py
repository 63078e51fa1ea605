"""Draws docs/images/editing.png: digits as unseen implicit networks show them, edited by a metanet, and as wanted.

    metazoo populate zoo siren --task digits_inr --models 1797 --name digits-inr --steps 200 --learning-rate 3e-3 --set 'hidden=[16,16]' --set omega=8.0
    python docs/draw_editing.py zoo digits-inr

Trains one editor a task where `metazoo weight-task TASK zoo digits-inr --metanet graph_metanet,dropout=0 --epochs 8` has not.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import torch

from metanets.commands.weight_tasks import folder_of
from metanets.contender import Contender
from metanets.editing import Editor, Gallery
from metanets.weight_board import Bench
from metanets.weight_task import split_rows
from metanets.weight_tasks.contrast import contrast
from metanets.weight_tasks.dilate import dilate
from metanets.weight_tasks.rotate import rotate

EPOCHS, SHOWN, EDITOR = 8, 6, "graph_metanet,dropout=0"


@torch.no_grad()
def main(zoo: str, population: str) -> None:
    """Train and draw."""
    figure, axes = plt.subplots(3 * 3, SHOWN, figsize=(0.9 * SHOWN, 8.4), gridspec_kw={"hspace": 0.08, "wspace": 0.08})
    for k, operator in enumerate((dilate, contrast, rotate)):
        bench = Bench(operator.__name__, zoo, population, folder_of(zoo, None), {"epochs": EPOCHS})
        with torch.enable_grad():
            editor = bench.restored(Contender.read(EDITOR), 0).network
        assert isinstance(editor, Editor)
        gallery, test = Gallery.of(bench.block), split_rows(bench.block, "test")
        before, after = gallery.render(bench.block.models(test)), gallery.render(editor(bench.block.models(test)))
        wanted = operator(gallery.images)
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
