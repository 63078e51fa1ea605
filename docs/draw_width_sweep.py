"""Draws docs/images/width_sweep.svg: test accuracy against width, of perceptrons and of convolutional networks on digits.

    python docs/draw_width_sweep.py

Trains two weight manifolds and twelve networks, which takes some minutes, and prints the rows of the page's tables.
"""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from metanets.hyper import hypernetwork
from metanets.hyper.neumeta import NeuMetaConfig, scaled, widths_of
from metanets.hyper.population import problem_of
from metanets.hyper.width_sweep import width_sweep

SHARES = tuple(k / 8 for k in range(2, 9))
STYLES = {"generated": ("#1F5FA8", "o"), "trained": ("#2E8B57", "s"), "sliced": ("#B23A48", "v"), "pruned": ("#D98E2B", "^")}  # fmt: skip
TARGETS = {"perceptron, one hidden layer": ("mlp", {"hidden": [32]}), "convolutions, two layers": ("small_cnn", {"channels": [16, 16]})}  # fmt: skip


def main() -> None:
    """Measure, print and draw."""
    found = hypernetwork("neumeta")
    plt.rcParams["svg.hashsalt"] = "metazoo"
    figure, panels = plt.subplots(1, len(TARGETS), figsize=(9, 3.4), sharey=True)
    for panel, (title, (family, fields)) in zip(panels, TARGETS.items(), strict=True):
        problem = problem_of(found, family, "digits", fields)
        widths = [scaled(widths_of(problem.config), share) for share in SHARES]
        rows = width_sweep(problem, widths, NeuMetaConfig(), found.recipe)
        print(f"| {title} |", " | ".join(str(each[0]) for each in widths), "|")
        for name, scores in rows.items():
            print(f"| {name} |", " | ".join(f"{value:.3f}" for value in scores), "|", flush=True)
            colour, marker = STYLES[name]
            panel.plot([each[0] for each in widths], scores, color=colour, marker=marker, markersize=4, label=name)
        panel.set(title=title, xlabel="width of every hidden layer", xticks=[each[0] for each in widths], ylim=(0, 1))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("test accuracy")
    panels[-1].legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(Path(__file__).parent / "images" / "width_sweep.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
