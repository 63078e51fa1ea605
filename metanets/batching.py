"""How models reach a metanet: many sets of weights on one graph, without a copy of the graph per model.

Models of one architecture share their parameter graph; only the edge values differ. So a batch of them is a `Topology`
and values `[edge, model]`; a heterogeneous batch is a few of those. The model axis comes second everywhere inside
metanets: gathering and summing rows then moves long contiguous runs. Edges are laid out in complete bipartite *blocks*
(a linear layer is one), on which messages need no scatter at all.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from graphs import GraphStructure, SymmetryGroup
from modelzoo.errors import UserError

DEPTH_BINS = 8
ATTRIBUTES = ("node_kind", "node_depth", "node_position", "edge_index", "edge_kind", "edge_op", "edge_position")


@dataclass(frozen=True)
class Block:
    """Complete bipartite pieces of one shape: piece b joins every one of `sources[b]` to every one of `targets[b]`.

    Args:
        targets: `[b, t]` nodes.
        sources: `[b, s]` nodes.
        level: rank of the targets' depth.
    """

    targets: Tensor
    sources: Tensor
    level: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Pieces, targets of each, sources of each."""
        return (*self.targets.shape, self.sources.shape[1])


@dataclass(frozen=True)
class Bundle:
    """Pairs of nodes that are joined by parallel edges of the same codes (the taps of a kernel), b lists of equal shape.

    Args:
        pairs: `[b, n]`.
        edges: `[b, n, k]`.
        codes: `[b, k]`, the codes of a pair's edges.
    """

    pairs: Tensor
    edges: Tensor
    codes: Tensor


@dataclass(frozen=True)
class Matrix:
    """Where the edges of a cell stand in a matrix whose rows are targets and whose columns are sources and codes.

    Args:
        places: `[n]`, row by row.
        shape: rows, columns.
    """

    places: Tensor
    shape: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Topology:
    """A parameter graph without its values.

    Args:
        node_kind: `[N]`.
        node_depth: `[N]` in [0, 1].
        node_position: `[N]`, -1 for interchangeable nodes.
        edge_index: `[2, E]`, from, to.
        edge_kind: `[E]`.
        edge_op: `[E]`.
        edge_position: `[E, 3]`, -1 where there is none.
        group: the symmetry group of the architecture, for metanets that read it; None where only graphs are at hand.
        structure: the parameter graph it came from, likewise.
    """

    node_kind: Tensor
    node_depth: Tensor
    node_position: Tensor
    edge_index: Tensor
    edge_kind: Tensor
    edge_op: Tensor
    edge_position: Tensor
    group: SymmetryGroup | None = None
    structure: GraphStructure | None = None

    @classmethod
    def of(cls, data: Any) -> "Topology":
        """The topology of one parameter graph."""
        return cls(*(getattr(data, name) for name in ATTRIBUTES))

    @classmethod
    def of_group(cls, group: SymmetryGroup, structure: GraphStructure) -> "Topology":
        """The topology of an architecture, with its symmetry group."""
        return replace(cls.of(SimpleNamespace(**structure.node, **structure.edge)), group=group, structure=structure)

    @property
    def symmetry(self) -> tuple[SymmetryGroup, GraphStructure]:
        """The group and the structure; raises `UserError` where they are not at hand."""
        if self.group is None or self.structure is None:
            raise UserError(
                "this metanet reads the symmetry group; pass models of a zoo, not bare parameter graphs.", 2
            )
        return self.group, self.structure

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return self.node_kind.shape[0]

    @property
    def edges(self) -> int:
        """Number of edges."""
        return self.edge_kind.shape[0]

    @cached_property
    def node_depth_bin(self) -> Tensor:
        """`[N]`, 0 … DEPTH_BINS."""
        return (self.node_depth * DEPTH_BINS).round().long()

    @cached_property
    def edge_depth_bin(self) -> Tensor:
        """`[E]`: the depth bin of the target."""
        return self.node_depth_bin[self.edge_index[1]]

    @cached_property
    def _coding(self) -> tuple[Tensor, Tensor]:
        columns = (self.edge_kind, self.edge_op, self.edge_depth_bin, *self.edge_position.T)
        return torch.unique(torch.stack(columns, 1), dim=0, return_inverse=True)

    @property
    def codes(self) -> Tensor:
        """`[C, 6]`: the distinct (kind, op, depth bin, position) of edges."""
        return self._coding[0]

    @property
    def edge_code(self) -> Tensor:
        """`[E]`: the row of `codes` of every edge."""
        return self._coding[1]

    @cached_property
    def _cells(self) -> tuple[Tensor, Tensor]:
        return torch.unique(self.codes[:, :3], dim=0, return_inverse=True)

    @property
    def cells(self) -> Tensor:
        """`[cells, 3]`: the distinct (kind, op, depth bin) of edges."""
        return self._cells[0]

    @cached_property
    def cell_edges(self) -> list[Tensor]:
        """The edges of every cell."""
        cell = self._cells[1][self.edge_code]
        return list(cell.argsort(stable=True).split(torch.bincount(cell).tolist()))

    @cached_property
    def cell_matrices(self) -> list[Matrix]:
        """The edges of every cell, in their order, as a matrix: a layer with the taps of a kernel beside one another."""
        found = []
        for edges in self.cell_edges:
            source, target = self.edge_index[:, edges]
            rows, row = torch.unique(target, return_inverse=True)
            columns, column = torch.unique(source * len(self.codes) + self.edge_code[edges], return_inverse=True)
            found.append(Matrix(row * len(columns) + column, (len(rows), len(columns))))
        return found

    @cached_property
    def _layout(self) -> tuple[tuple[Block, ...], Tensor]:
        source, target = (ends.numpy() for ends in self.edge_index)
        pairs = np.unique(target * self.nodes + source)  # sorted by target, then source
        into: dict[int, list[int]] = {}
        for to, of in zip((pairs // self.nodes).tolist(), (pairs % self.nodes).tolist(), strict=True):
            into.setdefault(to, []).append(of)
        levels = torch.unique(self.node_depth, return_inverse=True)[1].tolist()
        pieces: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for to, sources in into.items():
            pieces.setdefault((levels[to], tuple(sources)), []).append(to)
        shapes: dict[tuple[int, int, int], list[tuple[list[int], tuple[int, ...]]]] = {}
        for (level, given), targets in pieces.items():
            shapes.setdefault((level, len(targets), len(given)), []).append((targets, given))
        blocks, row, order = [], 0, np.empty(len(pairs), np.int64)
        for (level, t, s), found in sorted(shapes.items(), key=lambda item: item[0]):
            targets_, sources_ = (np.array([piece[side] for piece in found]) for side in (0, 1))
            keys = targets_[:, :, None] * self.nodes + sources_[:, None, :]
            order[np.searchsorted(pairs, keys.ravel())] = np.arange(row, row + keys.size)
            blocks.append(Block(torch.from_numpy(targets_), torch.from_numpy(sources_), level))
            row += len(found) * t * s
        edge_pair = order[np.searchsorted(pairs, target * self.nodes + source)]
        return tuple(blocks), torch.from_numpy(edge_pair)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Complete bipartite blocks that cover every pair of joined nodes once, by rising depth."""
        return self._layout[0]

    def split(self, states: Tensor) -> list[Tensor]:
        """Pair states `[P, …]` block by block, each `[b, t, s, …]`."""
        shapes = [block.shape for block in self.blocks]
        parts = states.split([prod(shape) for shape in shapes])  # one split: its backward pass is one concatenation
        return [part.unflatten(0, shape) for part, shape in zip(parts, shapes, strict=True)]

    @property
    def edge_pair(self) -> Tensor:
        """`[E]`: the row of the pair an edge joins; parallel edges (kernel taps) share one."""
        return self._layout[1]

    @cached_property
    def multiplicity(self) -> Tensor:
        """`[P]`: how many parallel edges a pair has."""
        return torch.bincount(self.edge_pair)

    @cached_property
    def bundles(self) -> tuple[Bundle, ...]:
        """Every pair once, with its edges."""
        order = np.lexsort((self.edge_code.numpy(), self.edge_pair.numpy()))  # by pair, then by code
        ends = np.cumsum(self.multiplicity.numpy())
        codes, lists = self.edge_code.numpy(), dict[tuple[int, ...], list[int]]()
        edges_of = np.split(order, ends[:-1])
        for pair, edges in enumerate(edges_of):
            lists.setdefault(tuple(codes[edges].tolist()), []).append(pair)
        shapes: dict[tuple[int, int], list[tuple[list[int], tuple[int, ...]]]] = {}
        for joined, pairs in lists.items():
            shapes.setdefault((len(pairs), len(joined)), []).append((pairs, joined))
        return tuple(
            Bundle(
                torch.tensor([pairs for pairs, _ in found]),
                torch.from_numpy(np.array([[edges_of[pair] for pair in pairs] for pairs, _ in found])),
                torch.tensor([joined for _, joined in found]),
            )
            for found in shapes.values()
        )

    @cached_property
    def _bundled(self) -> Tensor:
        return torch.cat([bundle.pairs.flatten() for bundle in self.bundles]).argsort()

    def pair_map(self, features: Tensor, weights: Tensor) -> Tensor:
        """Σ over the edges e of every pair of features_e W[code_e]: `[E, M, F]`, `[C, F, D]` to `[P, M, D]`."""
        models, found = features.shape[1], []
        for bundle in self.bundles:  # one matrix product a bundle: no array of edges × D
            gathered = features[bundle.edges].transpose(2, 3).flatten(3).flatten(1, 2)  # [b, n M, k F]
            found.append(
                torch.bmm(gathered, weights[bundle.codes].flatten(1, 2)).unflatten(1, (-1, models)).flatten(0, 1)
            )
        return torch.cat(found)[self._bundled]

    @cached_property
    def degrees(self) -> tuple[Tensor, Tensor]:
        """`[N]`, `[N]`: pairs that leave a node, pairs that enter it; at least one."""
        leave, enter = torch.zeros(2, self.nodes, dtype=torch.int64)
        for block in self.blocks:
            b, t, s = block.shape
            enter.index_add_(0, block.targets.flatten(), torch.full((b * t,), s))
            leave.index_add_(0, block.sources.flatten(), torch.full((b * s,), t))
        return leave.clamp_min(1), enter.clamp_min(1)

    @cached_property
    def recurrent(self) -> bool:
        """Whether an edge comes from a computed node and ends no deeper than that."""
        source, target = self.edge_index
        computed = torch.isin(source, target)
        return bool((computed & (self.node_depth[target] <= self.node_depth[source])).any())


@dataclass(frozen=True, eq=False)
class ModelFunction:
    """The function of every model of a batch, for metanets that probe.

    Args:
        template: a module of the architecture, in evaluation mode.
        tensors: parameters and buffers, `{name: [M, *shape]}`.
        shape: of one input.
        examples: reads inputs `[N, *shape]` that the models were trained on, None where there are none to read.
        classes: whether outputs are logits of classes.
    """

    template: nn.Module
    tensors: Mapping[str, Tensor]
    shape: tuple[int, ...]
    examples: Callable[[], Tensor] | None = None
    classes: bool = False

    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs of every model at the same inputs `[Q, *shape]`, flattened to `[M, Q, outputs]`."""
        inputs = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        with torch.autocast(inputs.device.type, enabled=False):  # models answer in the precision they have
            outputs = vmap(lambda tensors: functional_call(self.template, tensors, (inputs,)))(dict(self.tensors))
        return outputs.flatten(2)

    def rows(self, rows: Tensor) -> "ModelFunction":
        """Some of the models, or all in another order."""
        return replace(self, tensors={name: tensor[rows] for name, tensor in self.tensors.items()})

    def to(self, dtype: torch.dtype) -> "ModelFunction":
        """The same in another precision; complex tensors stay complex, integers integers."""
        real = {name: t.to(dtype) if t.is_floating_point() else t for name, t in self.tensors.items()}
        complex_ = {name: t.to(dtype.to_complex()) for name, t in self.tensors.items() if t.is_complex()}
        return replace(self, tensors={**real, **complex_})


@dataclass(frozen=True, eq=False)
class Models:
    """Models of one architecture.

    Args:
        topology: of their parameter graph.
        values: `[E, M]` edge values.
        function: the models themselves, None where their input is no single real tensor.
    """

    topology: Topology
    values: Tensor
    function: ModelFunction | None = None

    def __len__(self) -> int:
        return self.values.shape[1]

    def rows(self, rows: Tensor) -> "Models":
        """Some of the models, or all in another order."""
        return replace(self, values=self.values[:, rows], function=self.function and self.function.rows(rows))

    def to(self, dtype: torch.dtype) -> "Models":
        """The same in another precision."""
        return replace(self, values=self.values.to(dtype), function=self.function and self.function.to(dtype))


def groups(batch: Any) -> Iterator[tuple[Models, list[int]]]:
    """The models of a PyG batch (or of one graph) by architecture, each group with its positions in the batch."""
    graphs = batch.to_data_list() if hasattr(batch, "to_data_list") else [batch]
    found: dict[tuple[bytes, ...], list[int]] = {}
    for position, data in enumerate(graphs):
        key = tuple(getattr(data, name).contiguous().numpy().tobytes() for name in ATTRIBUTES)
        found.setdefault(key, []).append(position)
    for positions in found.values():
        topology = Topology.of(graphs[positions[0]])
        yield Models(topology, torch.stack([graphs[position].edge_value for position in positions], 1)), positions
