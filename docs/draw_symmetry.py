"""Draws docs/images/symmetry.svg: the weights of one attention block with the neurons that name their rows and columns.

    python docs/draw_symmetry.py

Nothing in the picture is typed: colours are read off the inferred group (`group.pooling_axes`).
"""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor, nn

import graphs
from graphs import PoolingAxis, SymmetryGroup

HERE = Path(__file__).parent
PINNED, INK = "#D5DAE0", "#1F2933"
PALETTES = ("Blues", "Oranges", "Greens", "Purples", "Reds")


class Block(nn.Module):
    """One head-by-head attention layer between two linear maps: 3 features in, 2 heads of 2, 2 features out."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(3, 4)
        self.attention = nn.MultiheadAttention(4, 2, bias=False, batch_first=True)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.into(x))
        return self.out(self.attention(h, h, h, need_weights=False)[0])


def colours(axis: PoolingAxis | None, size: int, orbits: dict[tuple[str, ...], int]) -> list[str | tuple[float, ...]]:
    """One colour an index: the hue is the factor, the shade the place in it; grey does not move."""
    if axis is None:
        return [PINNED] * size
    hue = PALETTES[orbits.setdefault(axis.factors, len(orbits)) % len(PALETTES)]
    blocks = axis.block.reshape(size, -1).max(1)
    return [PINNED if block < 0 else matplotlib.colormaps[hue](0.35 + 0.15 * block) for block in blocks.tolist()]


def draw(
    ax: Axes, left: float, name: str, tensor: Tensor, group: SymmetryGroup, orbits: dict[tuple[str, ...], int]
) -> float:
    """A tensor as a grid with a coloured strip along each side; returns its right end."""
    matrix = tensor.detach().reshape(len(tensor), -1).abs()
    axes, (rows, columns) = group.pooling_axes(name), matrix.shape
    shades = 0.94 - 0.6 * matrix / matrix.max()
    for row in range(rows):
        for column in range(columns):
            ax.add_patch(Rectangle((left + column, row), 1, 1, color=str(float(shades[row, column]))))
    for row, colour in enumerate(colours(axes[0], rows, orbits)):
        ax.add_patch(Rectangle((left - 0.8, row + 0.06), 0.6, 0.88, color=colour))
    if tensor.ndim > 1:
        for column, colour in enumerate(colours(axes[1], columns, orbits)):
            ax.add_patch(Rectangle((left + column + 0.06, -0.8), 0.88, 0.6, color=colour))
    label = f"{name}\n{' × '.join(map(str, tensor.shape))}".replace("attention.", "attention\n.")
    ax.text(left + columns / 2, -1.2, label, ha="center", va="bottom", fontsize=7.5, color=INK)
    return left + columns


def main() -> None:
    """Draw the picture and print the group beside it."""
    torch.manual_seed(0)
    module = Block().eval()
    group = graphs.symmetry(module, (torch.randn(1, 5, 3),))
    orbits: dict[tuple[str, ...], int] = {}
    plt.rcParams["svg.hashsalt"] = "metazoo"
    figure, ax = plt.subplots(figsize=(9.5, 4.4))
    left = 0.0
    for name, tensor in module.named_parameters():
        left = draw(ax, left, name, tensor, group, orbits) + 3
    ax.set(xlim=(-1, left - 2.5), ylim=(12.2, -3.6), aspect="equal")
    ax.axis("off")
    figure.tight_layout(pad=0.2)
    figure.savefig(HERE / "images" / "symmetry.svg", metadata={"Date": None})
    for row in group.table():
        print(row["group"], ", ".join(row["acts on"]))


if __name__ == "__main__":
    main()
