"""The parameter graph of an architecture: everything but the values, built once for all models that share it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from graphs.algebra import Array
from graphs.columns import packed, ranks
from graphs.elements import GroupElement
from graphs.factors import PermutationFactor
from graphs.group import SymmetryGroup
from graphs.labels import label
from graphs.parameter_graph.neurons import Neurons
from graphs.parameter_graph.plan import Record, plans, records
from graphs.permutations import read
from graphs.program import Program
from modelzoo.errors import UserError

MAX_EDGES = 2_000_000


@dataclass(frozen=True)
class GraphStructure:
    """The parameter graph of an architecture without values.

    The first edges are the tensors' entries, tensor by tensor in row-major order (a complex entry is a real and an
    imaginary edge); structural edges, of value 1, follow.

    Args:
        name: class name of the module.
        records: the tensors in the order of their edges.
        node: the node attributes of `Data`, `[node]`.
        edge: the edge attributes of `Data` but the value, `[edge, …]`, and `edge_index` `[2, edge]`.
        node_names: for people: a name of every node.
        neurons: what the nodes were made from.
        node_class: `[node]` class of the labelling that a node is, −1 for nodes that are none.
    """

    name: str
    records: tuple[Record, ...]
    node: Mapping[str, Tensor] = field(repr=False)
    edge: Mapping[str, Tensor] = field(repr=False)
    node_names: tuple[str, ...] = field(repr=False)
    neurons: Neurons = field(repr=False)
    node_class: Array = field(repr=False)

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        return len(self.node["node_kind"])

    @property
    def num_edges(self) -> int:
        """Number of edges."""
        return int(self.edge["edge_index"].shape[1])

    def values(self, stacked: Mapping[str, Tensor]) -> Tensor:
        """Edge values of a whole population in one pass.

        Args:
            stacked: parameters and state buffers by name, `[model, *shape]` (any leading axes; none for one model).

        Returns:
            `[model, edge]` (the same leading axes), real.

        Raises:
            UserError: a tensor is missing or has the wrong shape.
        """
        parts: list[Tensor] = []
        lead: tuple[int, ...] = ()
        for record in self.records:
            tensor = next((stacked[name] for name in record.names if name in stacked), None)
            if tensor is None:
                raise UserError(
                    f"tensor {record.names[0]!r} of {self.name} is missing, got {', '.join(sorted(stacked)[:8])}; "
                    f"pass all parameters and state buffers of the module."
                )
            cut = tensor.ndim - len(record.shape)
            if cut < 0 or tuple(tensor.shape[cut:]) != record.shape:
                raise UserError(
                    f"tensor {record.names[0]!r} of {self.name} has shape {list(tensor.shape)}, expected "
                    f"{list(record.shape)} with any leading axes; it belongs to another architecture."
                )
            lead = tuple(tensor.shape[:cut])
            real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
            parts.append(real.reshape(*lead, record.edges))
        ones = self.num_edges - sum(record.edges for record in self.records)
        if not parts:
            return torch.ones(self.num_edges)
        dtype = parts[0].dtype
        for part in parts[1:]:
            dtype = torch.promote_types(dtype, part.dtype)
        parts.append(torch.ones(*lead, ones, dtype=dtype, device=parts[0].device))
        return torch.cat([part.to(dtype) for part in parts], -1)

    def scatter(self, values: Tensor) -> dict[str, Tensor]:
        """The tensors with given edge values: the exact inverse of `values`, every tied name filled.

        Args:
            values: `[*lead, edge]`.

        Returns:
            `[*lead, *shape]` by name.

        Raises:
            UserError: the number of edges is wrong.
        """
        return scatter(self.records, values, self.num_edges)

    def data(self, tensors: Mapping[str, Tensor]) -> Data:
        """The parameter graph of one model.

        Args:
            tensors: its parameters and state buffers by name.
        """
        return Data(
            num_nodes=self.num_nodes,
            **self.node,
            **self.edge,
            edge_value=self.values(tensors),
            tensor_names=[record.names[0] for record in self.records],
            tensor_records=list(self.records),
        )

    def node_map(self, element: GroupElement) -> Tensor:
        """Where a permutation sends every node: node v of the old graph is node `map[v]` of the transformed one.

        Args:
            element: a word of permutations of this architecture's group.

        Raises:
            UserError: the element has a factor that is no permutation.
        """
        sigma = np.arange(len(self.neurons.labelling.neuron))
        for factor, parameters in element.word:
            if not isinstance(factor, PermutationFactor):
                raise UserError(
                    f"factor {factor.name!r} is {factor.kind}, which changes values and moves no node; "
                    f"pass an element of permutation factors only."
                )
            sigma = factor.label_map(parameters)[sigma]
        neuron = self.neurons.labelling.neuron
        image = np.full(self.neurons.count + 1, -1)
        image[neuron] = neuron[sigma]
        if not np.array_equal(image[neuron], neuron[sigma]):
            raise AssertionError("the element does not map neurons to neurons")
        node_of = np.full(self.neurons.count + 1, -1)
        node_of[self.node_class[self.node_class >= 0]] = np.flatnonzero(self.node_class >= 0)
        found = np.where(self.node_class >= 0, node_of[image[self.node_class]], np.arange(self.num_nodes))
        kind = self.edge["edge_index"][0].numpy()
        edges = self._entry_map(element)
        sources = kind[: len(edges)]
        own = self.node_class[sources] < 0  # constant and parameter nodes move with their entries
        found[sources[own]] = sources[edges[own]]
        return torch.from_numpy(found)

    def edge_map(self, element: GroupElement) -> Tensor:
        """Where a permutation sends every edge: the value of edge e is found at edge `map[e]` after the permutation."""
        entries, nodes = self._entry_map(element), self.node_map(element).numpy()
        index = self.edge["edge_index"].numpy()
        column = self.edge["edge_position"][:, 0].numpy()
        found = np.concatenate([entries, np.full(self.num_edges - len(entries), -1)])
        rest = np.arange(len(entries), self.num_edges)
        keys = np.stack([index[0, rest], index[1, rest], column[rest]])
        images = np.stack([nodes[index[0, rest]], nodes[index[1, rest]], column[rest]])
        both = ranks(packed(np.concatenate([keys, images], axis=1)))
        place = np.full(int(both.max(initial=-1)) + 1, -1)
        place[both[: len(rest)]] = rest
        found[rest] = place[both[len(rest) :]]
        return torch.from_numpy(found)

    def _entry_map(self, element: GroupElement) -> Array:
        """For every edge of an entry the edge that its value moves to."""
        index = {record.names[0]: torch.arange(record.entries).reshape(record.shape) for record in self.records}
        moved = element.apply(index)
        parts, start = [], 0
        for record in self.records:
            old = moved[record.names[0]].reshape(-1).numpy()
            place = np.empty_like(old)
            place[old] = np.arange(len(old))
            if record.dtype.is_complex:
                place = (2 * place[:, None] + np.arange(2)).ravel()
            parts.append(start + place)
            start += record.edges
        return np.concatenate([np.empty(0, np.int64), *parts])


def scatter(records: tuple[Record, ...] | list[Record], values: Tensor, edges: int) -> dict[str, Tensor]:
    """Edge values as tensors by name (see `GraphStructure.scatter`)."""
    if values.ndim < 1 or values.shape[-1] != edges:
        raise UserError(
            f"expected the values of {edges} edges in the last axis, got shape {list(values.shape)}; "
            f"keep edges in their order when you edit a parameter graph."
        )
    real = [record.dtype.to_real() for record in records]
    mixed = len(set(real)) > 1
    result: dict[str, Tensor] = {}
    start = 0
    for record, dtype in zip(records, real, strict=True):
        flat = values[..., start : start + record.edges]
        start += record.edges
        flat = flat.to(dtype) if mixed else flat
        if record.dtype.is_complex:
            flat = torch.view_as_complex(flat.reshape(*flat.shape[:-1], record.entries, 2).contiguous())
        tensor = flat.reshape((*values.shape[:-1], *record.shape))
        result.update(dict.fromkeys(record.names, tensor))
    return result


def check_size(name: str, edges: int, max_edges: int) -> None:
    """Refuse graphs that are too large; raises `UserError`."""
    if edges > max_edges:
        raise UserError(
            f"the parameter graph of {name} has {edges:,} edges, more than max_edges={max_edges:,}; raise max_edges, or "
            f"take graphs.layer_graph, one node a layer and one edge a tensor."
        )


def graph_structure(program_or_group: Program | SymmetryGroup, *, max_edges: int = MAX_EDGES) -> GraphStructure:
    """The parameter graph of an architecture, without values.

    Args:
        program_or_group: a traced module, or its symmetry group (whose labels are then used again).
        max_edges: refuse larger graphs.

    Raises:
        UserError: the graph would have more edges than `max_edges`.
    """
    from graphs.parameter_graph.build import build

    program = program_or_group if isinstance(program_or_group, Program) else program_or_group.program
    check_size(program.module_name, sum(record.edges for _, record in records(program)), max_edges)
    neurons = neurons_of(program_or_group)
    planned = plans(neurons)
    check_size(program.module_name, sum(plan.edges for plan in planned), max_edges)
    return build(neurons, planned)


def neurons_of(program_or_group: Program | SymmetryGroup) -> Neurons:
    """The neurons of a program, labelled afresh unless its group is at hand."""
    if isinstance(program_or_group, SymmetryGroup):
        return Neurons(program_or_group.labelling, program_or_group.structure)
    labelling: Any = label(program_or_group)
    return Neurons(labelling, read(labelling.algebra))
