"""What a module is made of: its tree of sub-modules with the tensors and the number of parameters of each."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import pandas as pd
import plotly.graph_objects as go
from torch import Tensor, nn

from analysis.theme import CATEGORICAL, INK, figure


@dataclass(frozen=True)
class Part:
    """One module of the tree.

    Args:
        path: its name inside the whole module, "" for the whole.
        kind: class and settings, such as `Linear(in_features=2, out_features=16)`.
        tensors: name and shape of every tensor it holds itself.
        own: scalars it holds itself, a complex one counted twice; a tied parameter counts where it is met first.
        total: scalars of the whole branch.
    """

    path: str
    kind: str
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    own: int
    total: int

    @property
    def parent(self) -> str:
        """Path of the module it lies in."""
        return self.path.rpartition(".")[0]


@dataclass(frozen=True)
class Architecture:
    """The tree of a module, parents before children."""

    parts: tuple[Part, ...]

    @property
    def parameters(self) -> int:
        """Scalars of the whole module."""
        return self.parts[0].total

    def to_frame(self) -> pd.DataFrame:
        """One row a module."""
        return pd.DataFrame(
            {
                "module": [part.path or "(whole)" for part in self.parts],
                "kind": [part.kind for part in self.parts],
                "tensors": [", ".join(f"{name} {size(shape)}" for name, shape in part.tensors) for part in self.parts],
                "parameters": [part.total for part in self.parts],
                "share": [part.total / max(self.parameters, 1) for part in self.parts],
            }
        )

    def plot(self) -> go.Figure:
        """The tree from left to right, every box as tall as its share of the parameters."""
        drawn = [part for part in self.parts if part.total]
        classes = list(dict.fromkeys(part.kind.partition("(")[0] for part in drawn))
        drawing = figure(height=max(430, min(640, 90 + 26 * len(drawn))))
        drawing.add_trace(
            go.Icicle(
                ids=[f"/{part.path}" for part in drawn],
                labels=[part.path.rpartition(".")[2] or part.kind.partition("(")[0] for part in drawn],
                parents=[f"/{part.parent}" if part.path else "" for part in drawn],
                values=[part.total for part in drawn], branchvalues="total", sort=False,
                customdata=[part.kind for part in drawn],
                texttemplate="%{label}  %{value:,}",
                hovertemplate="%{id}<br>%{customdata}<br>%{value:,} parameters, %{percentRoot:.1%}<extra></extra>",
                marker={
                    "colors": [CATEGORICAL[classes.index(part.kind.partition("(")[0]) % len(CATEGORICAL)] for part in drawn],
                    "line": {"color": "white", "width": 1.5},
                },
                tiling={"orientation": "h"}, pathbar={"visible": False}, opacity=0.9, textfont={"color": "white"}, root={"color": INK},
            )
        )  # fmt: skip
        return drawing.update_layout(margin={"l": 4, "r": 4, "t": 8, "b": 8})


def size(shape: tuple[int, ...]) -> str:
    """A shape in words: `16 × 2`."""
    return " × ".join(map(str, shape)) or "scalar"


def scalars(tensor: Tensor) -> int:
    """Real numbers in a tensor."""
    return tensor.numel() * (2 if tensor.is_complex() else 1)


def architecture(module: nn.Module) -> Architecture:
    """The tree of a module.

    Args:
        module: any module.

    Returns:
        One part per sub-module, in the order of `named_modules`; a module used twice is listed once.
    """
    seen: set[int] = set()
    parts: list[tuple[str, str, tuple[tuple[str, tuple[int, ...]], ...], int]] = []
    for path, part in module.named_modules():
        own = 0
        for parameter in part.parameters(recurse=False):
            own += 0 if id(parameter) in seen else scalars(parameter)
            seen.add(id(parameter))
        tensors = tuple((name, tuple(tensor.shape)) for name, tensor in held(part))
        settings = part.extra_repr()
        parts.append((path, f"{type(part).__name__}({settings})" if settings else type(part).__name__, tensors, own))
    totals = [
        sum(own for other, _, _, own in parts if not path or other == path or other.startswith(f"{path}."))
        for path, *_ in parts
    ]
    return Architecture(tuple(Part(*part, total) for part, total in zip(parts, totals, strict=True)))


def held(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers that a module holds itself."""
    return chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
