"""Draws pictures of docs/images: digits as unseen implicit networks show them, edited by a metanet, and as wanted.

    python docs/draw_editing.py zoo digits-inr dilate contrast rotate
    python docs/draw_editing.py zoo siren-mnist-inr dilate,expansion=16 --epochs 6 --name editing_mnist

Trains one editor a task where `metazoo weight-task TASK zoo POPULATION --metanet graph_metanet,dropout=0` has not; the zoo as in
docs/editing.md.
"""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import torch
import typer

from metanets.commands.weight_tasks import folder_of
from metanets.contender import Contender
from metanets.editing import Editor, Gallery
from metanets.weight_board import Bench
from metanets.weight_task import split_rows
from metanets.weight_tasks.contrast import contrast
from metanets.weight_tasks.dilate import dilate
from metanets.weight_tasks.rotate import rotate

OPERATORS = {each.__name__: each for each in (dilate, contrast, rotate)}
SHOWN, EDITOR = 6, "graph_metanet,dropout=0"


@torch.no_grad()
def main(
    zoo: str, population: str, tasks: list[str], epochs: int = 8, runs: Path | None = None, name: str = "editing"
) -> None:
    """Train what is not trained yet, and draw."""
    size = (0.9 * SHOWN, 2.8 * len(tasks))
    figure, axes = plt.subplots(3 * len(tasks), SHOWN, figsize=size, gridspec_kw={"hspace": 0.08, "wspace": 0.08})
    for k, task in enumerate(tasks):
        bench = Bench(task, zoo, population, folder_of(zoo, runs), {"epochs": epochs})
        with torch.enable_grad():
            editor = bench.restored(Contender.read(EDITOR), 0).network
        assert isinstance(editor, Editor)
        gallery, test = Gallery.of(bench.block), split_rows(bench.block, "test")[:SHOWN]
        before, after = gallery.render(bench.block.models(test)), gallery.render(editor(bench.block.models(test)))
        wanted = OPERATORS[bench.task.name](gallery.images[test])
        for row, (title, images) in enumerate({"before": before, bench.task.name: after, "wanted": wanted}.items()):
            for column in range(SHOWN):
                axis = axes[3 * k + row, column]
                axis.imshow(images[column].numpy(), cmap="gray", vmin=0, vmax=1)
                axis.set(xticks=[], yticks=[])
            axes[3 * k + row, 0].set_ylabel(title, fontsize=8)
    figure.savefig(Path(__file__).parent / "images" / f"{name}.png", dpi=110, bbox_inches="tight", metadata={"Software": None})  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
