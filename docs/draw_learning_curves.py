"""Draws docs/images/learning_curves.svg: validation accuracy by epoch of metanets that read SIRENs of MNIST.

metazoo leaderboard zoo siren-mnist-inr …          # as in docs/leaderboards.md
python docs/draw_learning_curves.py runs/leaderboard-siren-mnist-inr
"""

import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from metanets.runs import find_curves

COLUMN = "validation_accuracy"
OUT = Path(__file__).parent / "images" / "learning_curves.svg"


def main(folders: list[Path]) -> None:
    """Draw the first seed of what is stored in boards or runs; the best at the top of the legend."""
    curves = {name: found for name, found in find_curves(folders).items() if name.endswith("/seed-0")}
    plt.rcParams["svg.hashsalt"] = "metazoo"
    figure, axes = plt.subplots(figsize=(8, 3.6))
    for name in sorted(curves, key=lambda name: -curves[name][COLUMN].max()):
        known = curves[name][["epoch", COLUMN]].dropna()
        label = re.sub(r"-([a-z_]+)_([\d.]+)", r",\1=\2", name.removeprefix("label/").removesuffix("/seed-0"))
        axes.plot(known["epoch"] + 1, known[COLUMN], marker="o", markersize=3, label=label)
    axes.set(xlabel="epochs", ylabel="accuracy on the validation split", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(OUT, metadata={"Date": None})


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
