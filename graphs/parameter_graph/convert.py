"""Parameter graphs of modules, back to parameters, and to networkx."""

from collections.abc import Sequence
from typing import Any

import networkx as nx
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from graphs.parameter_graph.structure import MAX_EDGES, check_size, graph_structure, scatter
from graphs.parameter_graph.vocabulary import EDGE_KINDS, EDGE_OPS, NODE_KINDS
from graphs.program import trace
from modelzoo.errors import UserError


def parameter_graph(module: nn.Module, example_inputs: Sequence[Any], *, max_edges: int = MAX_EDGES) -> Data:
    """The parameter graph of a module: neurons are nodes, parameters are edges from input side to output side.

    Args:
        module: any module that `torch.export` takes.
        example_inputs: the positional arguments of one call.
        max_edges: refuse larger graphs.

    Returns:
        The graph; `graphs.scatter_parameters` is its inverse.

    Raises:
        UserError: the graph is too large, or `torch.export` refuses the module.
    """
    scalars = sum(parameter.numel() * (2 if parameter.is_complex() else 1) for parameter in module.parameters())
    check_size(type(module).__name__, scalars, max_edges)
    structure = graph_structure(trace(module, example_inputs), max_edges=max_edges)
    state = dict(module.named_parameters()) | dict(module.named_buffers())
    return structure.data({name: tensor.detach() for name, tensor in state.items()})


def scatter_parameters(data: Data) -> Any:
    """The parameters that a parameter graph holds, with whatever its edge values are now.

    Args:
        data: a graph of `parameter_graph` or `GraphStructure.data`, or a `Batch` of them.

    Returns:
        Tensors by name (every name of a tied tensor); for a batch a list of them, graph by graph.

    Raises:
        UserError: the graph's edges were added to or taken from.
    """
    if isinstance(data, Batch):
        return [scatter_parameters(graph) for graph in data.to_data_list()]
    if "tensor_records" not in data:
        raise UserError("this graph has no tensor_records; it was not made by graphs.parameter_graph.")
    value: Tensor = data.edge_value
    return scatter(data.tensor_records, value, int(data.edge_index.shape[1]))


def to_networkx(data: Data) -> "nx.MultiDiGraph[int]":
    """A parameter graph in networkx: kinds by name, tensor names and entries on the edges, positions where there are any.

    Args:
        data: a parameter graph.
    """
    graph: nx.MultiDiGraph[int] = nx.MultiDiGraph()
    columns = (data.node_kind, data.node_depth, data.node_position)
    for node, (kind, depth, position) in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        attributes = {"kind": NODE_KINDS[kind], "depth": round(depth, 6)}
        graph.add_node(node, **attributes, **({"position": position} if position >= 0 else {}))
    columns = (
        *data.edge_index, data.edge_value, data.edge_kind, data.edge_op, data.edge_tensor, data.edge_entry,
        data.edge_position,
    )  # fmt: skip
    for source, target, value, kind, op, tensor, entry, position in zip(
        *(column.tolist() for column in columns), strict=True
    ):
        attributes = {"value": value, "kind": EDGE_KINDS[kind], "op": EDGE_OPS[op]}
        if tensor >= 0:
            attributes |= {"tensor": data.tensor_names[tensor], "entry": entry}
        if position[0] >= 0:
            attributes["position"] = ",".join(str(p) for p in position if p >= 0)
        graph.add_edge(source, target, **attributes)
    return graph
