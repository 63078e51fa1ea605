"""The fast product: many diagrams applied to one tensor without their n^l × n^k matrices.

"An Algorithm for Computing with Brauer's Group Equivariant Neural Network Layers" (Pearce-Crump, 2023): a diagram is
permutation · planar · permutation, so its product is: permute the axes, contract what lies inside the lower row, carry the
strings through, copy what lies inside the upper row, permute. All diagrams of a layer are done together: what they
contract in the same way is contracted once, what they copy in the same way is added up before it is copied.
"""

from collections.abc import Sequence
from itertools import permutations
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metanets.equivariant.diagrams import LOOSE, Blocks, Diagram, parity
from metanets.equivariant.graph_automorphism import BilabelledGraph
from metanets.equivariant.groups import Matrix

Term = Diagram | BilabelledGraph


class _Wiring(NamedTuple):
    """How one term gets from the contracted input to the output before it is copied."""

    weight: int  # position of the term
    kept: tuple[int, ...]  # lower blocks that survive the contraction
    produced: tuple[int, ...]  # upper blocks that are not broadcast
    order: tuple[int, ...]  # axes of the produced blocks, in the order of the upper row, among those that come in
    term: Term


class DiagramProduct(nn.Module):
    """y = Σ_d Θ(d) x W_d for diagrams d with equal rows, each with its own channel matrix.

    Args:
        terms: diagrams, or bilabelled graphs.
        sizes_in: length of every input axis (equal inside a block).
        sizes_out: length of every output axis.
        form: the symplectic form, when pairs inside a row carry one.
        adjacency: of the graph, for bilabelled graphs.

    Shape:
        x `[B, *sizes_in, C]`, weight `[terms, C, D]`, result `[B, *sizes_out, D]`.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        sizes_in: Sequence[int],
        sizes_out: Sequence[int],
        form: Matrix | None = None,
        adjacency: Matrix | None = None,
    ) -> None:
        super().__init__()
        self.sizes_in, self.sizes_out = tuple(sizes_in), tuple(sizes_out)
        self._indices: dict[tuple[str, Blocks], tuple[str, tuple[int, ...]]] = {}
        self._plan: dict[Blocks, dict[tuple[int, ...], dict[Blocks, list[_Wiring]]]] = {}
        if form is not None:
            signs = torch.tensor([(-1.0) ** _diagram(term).crossings() for term in terms])
            self.register_buffer("signs", signs[:, None, None], persistent=False)
        else:
            self.signs: Tensor | None = None
        if adjacency is not None:
            self.register_buffer("adjacency", torch.tensor(adjacency), persistent=False)
        self._heads: dict[Diagram, str] = {}
        for position, term in enumerate(terms):
            lower, upper, wiring = self._wire(position, term)
            self._diagonal("in", lower, self.sizes_in, form)
            self._diagonal("out", upper, self.sizes_out, None if form is None else form.T)
            self._plan.setdefault(lower, {}).setdefault(wiring.kept, {}).setdefault(upper, []).append(wiring)

    def _wire(self, position: int, term: Term) -> tuple[Blocks, Blocks, _Wiring]:
        diagram = _diagram(term)
        held = _touched(term)
        lower = [i for i, block in enumerate(diagram.blocks) if block[-1] >= diagram.upper]
        upper = [i for i, block in enumerate(diagram.blocks) if block[0] < diagram.upper]
        rows = [tuple(p - diagram.upper for p in diagram.blocks[i] if p >= diagram.upper) for i in lower]
        lower = [i for _, i in sorted(zip(rows, lower, strict=True))]
        kept = [i for i in lower if i in diagram.through or i in held]
        produced = [i for i in upper if i in diagram.through or i in held]
        arriving = kept if not held else [i for i in kept if i not in held] + [i for i in upper if i in held]
        if isinstance(term, Diagram) and term.head:
            self._register_head(term)
        return (
            tuple(sorted(rows)),
            tuple(tuple(p for p in diagram.blocks[i] if p < diagram.upper) for i in upper),
            _Wiring(
                position,
                tuple(lower.index(i) for i in kept),
                tuple(upper.index(i) for i in produced),
                tuple(arriving.index(i) for i in produced),
                term,
            ),
        )

    def _diagonal(self, row: str, blocks: Blocks, sizes: Sequence[int], form: Matrix | None) -> None:
        """Positions `[Π_blocks n]` in the flat tensor where the indices agree inside every block, with signs of the form."""
        if (row, blocks) in self._indices:
            return
        lengths = tuple(sizes[block[0]] for block in blocks)
        if any(sizes[p] != sizes[block[0]] for block in blocks for p in block):
            raise ValueError(f"blocks {blocks} join axes of different lengths {tuple(sizes)}")
        name = ""
        if len(blocks) < len(sizes):
            strides = [prod(sizes[p + 1 :]) for p in range(len(sizes))]
            where, sign = torch.zeros(lengths, dtype=torch.long), torch.ones(lengths)
            for axis, block in enumerate(blocks):
                shape = [-1 if a == axis else 1 for a in range(len(blocks))]
                for number, p in enumerate(block):
                    index = torch.arange(lengths[axis])
                    if form is not None and number == 1:  # Ω has one entry in every row
                        entries = torch.tensor(form)
                        index = entries.abs().argmax(1)
                        sign = sign * entries.sum(1).to(sign.dtype).view(shape)
                    where = where + strides[p] * index.view(shape)
            name = f"{row}_{len(self._indices)}"
            self.register_buffer(name, where.reshape(-1), persistent=False)
            if form is not None:
                self.register_buffer(name + "_sign", sign.reshape(-1, 1), persistent=False)
        self._indices[row, blocks] = name, lengths

    def _register_head(self, diagram: Diagram) -> None:
        n = len(diagram.head)
        orders = list(permutations(range(n)))
        table = torch.tensor(orders)  # [n!, n]
        name = f"head_{len(self._heads)}"
        lower = {t: min(p for p in diagram.blocks[t] if p >= diagram.upper) for t in diagram.head if t != LOOSE and diagram.blocks[t][-1] >= diagram.upper}  # fmt: skip
        upper = [t for t in sorted(diagram.head) if t != LOOSE and diagram.blocks[t][0] < diagram.upper]
        for side, held in (("from", sorted(lower, key=lambda t: lower[t])), ("to", upper)):
            flat = torch.zeros(len(orders), dtype=torch.long)
            for t in held:
                flat = flat * n + table[:, diagram.head.index(t)]
            self.register_buffer(f"{name}_{side}", flat, persistent=False)
        sign = torch.tensor([float(parity(order)) for order in orders])
        self.register_buffer(f"{name}_sign", sign[:, None], persistent=False)
        self._heads[diagram] = name

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        batch, channels_out = x.shape[0], weight.shape[2]
        weight = weight if self.signs is None else weight * self.signs.to(weight.dtype)
        flat = x.reshape(batch, -1, x.shape[-1])
        ready: dict[Blocks, list[Tensor]] = {}  # by upper blocks
        for lower, by_kept in self._plan.items():
            name, lengths = self._indices["in", lower]
            core = flat.index_select(1, getattr(self, name)) if name else flat
            if name and hasattr(self, name + "_sign"):
                core = core * getattr(self, name + "_sign").to(x.dtype)
            cores = {tuple(range(len(lengths))): core.view(batch, *lengths, -1)}
            for kept, by_upper in by_kept.items():
                contracted = _contract(cores, kept)
                wirings = [wiring for each in by_upper.values() for wiring in each]
                mixed = torch.einsum(
                    "b...c,tcd->tb...d", contracted, weight[[wiring.weight for wiring in wirings]]
                )  # [t, B, *kept, D]
                results = iter(mixed)
                for upper, each in by_upper.items():
                    ready.setdefault(upper, []).extend(self._carry(wiring, next(results), upper) for wiring in each)
        return self._copy(ready, batch, channels_out, x)

    def _carry(self, wiring: _Wiring, value: Tensor, upper: Blocks) -> Tensor:
        """Strings through: `[B, *kept, D]` to `[B, *upper blocks, D]`, with length 1 where it is to be broadcast."""
        term = wiring.term
        if isinstance(term, BilabelledGraph):
            value = self._count(term, value) if term.edges else value
        elif term.head:
            value = self._alternate(term, value)
        value = value.permute(0, *(1 + axis for axis in wiring.order), value.ndim - 1)
        for axis in range(len(upper)):
            if axis not in wiring.produced:
                value = value.unsqueeze(1 + axis)
        return value

    def _alternate(self, diagram: Diagram, value: Tensor) -> Tensor:
        """Contract held lower blocks with the Levi-Civita symbol, which opens the held upper blocks."""
        n, name = len(diagram.head), self._heads[diagram]
        lower = sorted(
            (min(p for p in block if p >= diagram.upper), i) for i, block in enumerate(diagram.blocks) if block[-1] >= diagram.upper
        )  # fmt: skip
        kept = [i for _, i in lower if i in diagram.through or i in diagram.head]
        held = [axis for axis, i in enumerate(kept) if i in diagram.head]
        plain = [axis for axis, i in enumerate(kept) if i not in diagram.head]
        value = value.permute(0, *(1 + a for a in plain), *(1 + a for a in held), value.ndim - 1)
        lead = value.shape[: 1 + len(plain)]
        value = value.reshape(*lead, n ** len(held), value.shape[-1])
        axis = value.ndim - 2
        opened = sum(t != LOOSE and diagram.blocks[t][0] < diagram.upper for t in diagram.head)
        taken = value.index_select(axis, getattr(self, name + "_from")) * getattr(self, name + "_sign").to(value.dtype)
        result = value.new_zeros(*lead, n**opened, value.shape[-1])
        result = result.index_add(axis, getattr(self, name + "_to"), taken)
        return result.view(*lead, *(n,) * opened, value.shape[-1])

    def _count(self, graph: BilabelledGraph, value: Tensor) -> Tensor:
        """Contract with one adjacency matrix for every edge of the bilabelled graph."""
        diagram, touched = graph.diagram, _touched(graph)
        lower = sorted(
            (min(p for p in block if p >= diagram.upper), i) for i, block in enumerate(diagram.blocks) if block[-1] >= diagram.upper
        )  # fmt: skip
        kept = [i for _, i in lower if i in diagram.through or i in touched]
        arriving = [i for i in kept if i not in touched]
        arriving += [i for i, block in enumerate(diagram.blocks) if block[0] < diagram.upper and i in touched]
        vertices = len(diagram.blocks) + graph.unlabelled
        operands: list[object] = [value, [vertices, *kept, vertices + 1]]
        for edge in graph.edges:
            operands += [self.adjacency.to(value.dtype), list(edge)]
        result: Tensor = torch.einsum(*operands, [vertices, *arriving, vertices + 1])
        return result

    def _copy(self, ready: dict[Blocks, list[Tensor]], batch: int, channels: int, like: Tensor) -> Tensor:
        """Add up what is copied in the same way, then put it where the indices agree inside every upper block."""
        size = prod(self.sizes_out)
        total: Tensor | None = None
        for upper in sorted(ready, key=len, reverse=True):
            name, lengths = self._indices["out", upper]
            parts = sorted(ready[upper], key=Tensor.numel)
            value = parts[0]
            for part in parts[1:]:
                value = value + part
            value = value.expand(batch, *lengths, channels).reshape(batch, -1, channels)
            if not name:
                total = value if total is None else total + value
                continue
            if hasattr(self, name + "_sign"):
                value = value * getattr(self, name + "_sign").to(value.dtype)
            if total is None:
                total = like.new_zeros(batch, size, channels)
            total = total.index_add(1, getattr(self, name), value)
        if total is None:
            total = like.new_zeros(batch, size, channels)
        return total.view(batch, *self.sizes_out, channels)


def _diagram(term: Term) -> Diagram:
    return term if isinstance(term, Diagram) else term.diagram


def _touched(term: Term) -> set[int]:
    """Blocks held by a head or met by an edge."""
    if isinstance(term, Diagram):
        return {t for t in term.head if t != LOOSE}
    return {v for edge in term.edges for v in edge if v < len(term.blocks)}


def _contract(cores: dict[tuple[int, ...], Tensor], kept: tuple[int, ...]) -> Tensor:
    """Sum over the axes that are not kept, last first, reusing every sum on the way."""
    if kept not in cores:
        full = max(cores, key=len)
        gone = next(axis for axis in full if axis not in kept)
        source = tuple(sorted({*kept, gone}))
        cores[kept] = _contract(cores, source).sum(1 + source.index(gone))
    return cores[kept]
