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
    """How one term gets from the input to the output before it is copied."""

    lower: Blocks  # how the input's indices agree
    kept: tuple[int, ...]  # lower blocks that survive the contraction
    order: tuple[int, ...]  # axes of the produced upper blocks, in the order of the upper row, among those that arrive
    link: Term | None  # the head or the edges in between


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

    order: Tensor

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
        # by upper blocks, then by those of them that are produced (the others are broadcast)
        self._plan: dict[Blocks, dict[tuple[int, ...], list[_Wiring]]] = {}
        if form is not None:
            signs = torch.tensor([(-1.0) ** _diagram(term).crossings() for term in terms])
            self.register_buffer("signs", signs[:, None, None], persistent=False)
        else:
            self.signs: Tensor | None = None
        if adjacency is not None:
            self.register_buffer("adjacency", torch.tensor(adjacency), persistent=False)
        self._heads: dict[Diagram, str] = {}
        positions: dict[tuple[Blocks, tuple[int, ...]], list[int]] = {}
        for position, term in enumerate(terms):
            upper, produced, wiring = self._wire(term)
            self._diagonal("in", wiring.lower, self.sizes_in, form)
            self._diagonal("out", upper, self.sizes_out, None if form is None else form.T)
            self._plan.setdefault(upper, {}).setdefault(produced, []).append(wiring)
            positions.setdefault((upper, produced), []).append(position)
        order = [
            position
            for upper, each in self._plan.items()
            for produced in each
            for position in positions[upper, produced]
        ]
        self.register_buffer("order", torch.tensor(order, dtype=torch.long), persistent=False)

    def _wire(self, term: Term) -> tuple[Blocks, tuple[int, ...], _Wiring]:
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
            tuple(tuple(p for p in diagram.blocks[i] if p < diagram.upper) for i in upper),
            tuple(upper.index(i) for i in produced),
            _Wiring(
                tuple(sorted(rows)),
                tuple(lower.index(i) for i in kept),
                tuple(arriving.index(i) for i in produced),
                term if held else None,
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
        batch = x.shape[0]
        weight = weight if self.signs is None else weight * self.signs.to(weight.dtype)
        weight = weight.index_select(0, self.order)
        cores: dict[Blocks, dict[tuple[int, ...], Tensor]] = {}
        carried: dict[_Wiring, Tensor] = {}
        total: Tensor | None = None
        start = 0
        for upper, by_produced in self._plan.items():
            parts = []
            for produced, wirings in by_produced.items():
                for wiring in wirings:
                    if wiring not in carried:
                        carried[wiring] = self._carry(wiring, self._core(wiring, x, cores))
                stacked = torch.cat([carried[wiring] for wiring in wirings], -1)
                mixed = stacked @ weight[start : start + len(wirings)].flatten(0, 1)  # all terms of one shape at once
                start += len(wirings)
                parts.append(mixed[(slice(None), *(slice(None) if b in produced else None for b in range(len(upper))))])
            total = self._copied(parts, upper, total, x)
        if total is None:
            total = x.new_zeros(batch, prod(self.sizes_out), weight.shape[2])
        return total.view(batch, *self.sizes_out, weight.shape[2])

    def _core(self, wiring: _Wiring, x: Tensor, cores: dict[Blocks, dict[tuple[int, ...], Tensor]]) -> Tensor:
        """The input where its indices agree in every lower block, summed over blocks that are not kept: `[B, *kept, C]`."""
        if wiring.lower not in cores:
            name, lengths = self._indices["in", wiring.lower]
            core = x
            if name:
                core = x.reshape(x.shape[0], -1, x.shape[-1]).index_select(1, getattr(self, name))
                if hasattr(self, name + "_sign"):
                    core = core * getattr(self, name + "_sign").to(x.dtype)
                core = core.view(x.shape[0], *lengths, -1)
            cores[wiring.lower] = {tuple(range(len(lengths))): core}
        return _contract(cores[wiring.lower], wiring.kept)

    def _carry(self, wiring: _Wiring, value: Tensor) -> Tensor:
        """Strings through: `[B, *kept, C]` to `[B, *produced, C]`."""
        if isinstance(wiring.link, BilabelledGraph):
            value = self._count(wiring.link, value)
        elif wiring.link is not None:
            value = self._alternate(wiring.link, value)
        return value.permute(0, *(1 + axis for axis in wiring.order), value.ndim - 1)

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

    def _copied(self, parts: Sequence[Tensor], upper: Blocks, total: Tensor | None, x: Tensor) -> Tensor:
        """Add to the total `[B, Π sizes_out, D]` what belongs where the indices agree inside every upper block."""
        name, lengths = self._indices["out", upper]
        value, *rest = sorted(parts, key=Tensor.numel)
        for part in rest:
            value = value + part
        batch, channels = x.shape[0], value.shape[-1]
        value = value.expand(batch, *lengths, channels).reshape(batch, -1, channels)
        if not name:
            return value if total is None else total + value
        if hasattr(self, name + "_sign"):
            value = value * getattr(self, name + "_sign").to(value.dtype)
        if total is None:
            total = x.new_zeros(batch, prod(self.sizes_out), channels)
        return total.index_add(1, getattr(self, name), value)


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
