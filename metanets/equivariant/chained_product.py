"""Products of any groups: the diagrams of one factor after the other, each on its own axes.

Hom_{G × H}(V ⊗ V', W ⊗ W') = Hom_G(V, W) ⊗ Hom_H(V', W'): a spanning set of the product is every choice of one diagram a factor.
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metanets.equivariant.contraction import DiagramProduct, Term
from metanets.equivariant.groups import GraphAutomorphism, Group


class Link(NamedTuple):
    """One factor of a product of groups.

    Args:
        group: acts on the axes.
        lower: positions of its axes in the input.
        upper: positions of its axes in the output.
        terms: diagrams from `lower` to `upper`.
    """

    group: Group
    lower: tuple[int, ...]
    upper: tuple[int, ...]
    terms: Sequence[Term]


class ChainedProduct(nn.Module):
    """y = Σ (Θ(d_1) ⊗ … ⊗ Θ(d_F)) x W_{d_1 … d_F} over all choices of one diagram d_f of every factor.

    Args:
        links: the factors; every axis of the input and of the output belongs to one of them.

    Shape:
        x `[B, *sizes_in, C]`, weight `[Π terms, C, D]` with the last factor's terms next to each other; result
        `[B, *sizes_out, D]`.
    """

    def __init__(self, links: Sequence[Link]) -> None:
        super().__init__()
        self.links = tuple(links)
        self.products = nn.ModuleList()
        for group, lower, upper, terms in links:
            adjacency = group.adjacency if isinstance(group, GraphAutomorphism) else None
            rows = (group.n,) * len(lower), (group.n,) * len(upper)
            self.products.append(DiagramProduct(terms, *rows, group.form, adjacency))

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        counts = [len(link.terms) for link in self.links]
        channels, outputs = weight.shape[1:]
        # terms of the factors that are done stand in the channels, the latest first
        last = weight.view(*counts, channels, outputs).permute(*reversed(range(len(counts))), -2, -1)
        last = last.reshape(counts[-1], -1, outputs)
        axes = [
            (False, position) for link in self.links for position in link.lower
        ]  # (whether of the output, position)
        axes.sort()
        for number, (link, step) in enumerate(zip(self.links, self.products, strict=True)):
            own = [axes.index((False, position)) for position in link.lower]
            rest = [axis for axis in range(len(axes)) if axis not in own]
            x = x.permute(0, *(1 + axis for axis in (*rest, *own)), x.ndim - 1)
            lead = x.shape[: 1 + len(rest)]
            size = counts[number] * x.shape[-1]
            mix = last if number == len(counts) - 1 else torch.eye(size).to(x).view(counts[number], x.shape[-1], size)
            y = step(x.reshape(prod(lead), *x.shape[1 + len(rest) :]), mix)
            x = y.view(*lead, *y.shape[1:])
            axes = [axes[axis] for axis in rest] + [(True, position) for position in link.upper]
        return x.permute(0, *(1 + axes.index(axis) for axis in sorted(axes)), x.ndim - 1)
