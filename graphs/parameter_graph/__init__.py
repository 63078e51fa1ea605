"""Parameter graphs: neurons as nodes, parameters as edges, of any module that can be traced."""

from graphs.parameter_graph.convert import parameter_graph, scatter_parameters, to_networkx
from graphs.parameter_graph.layers import layer_graph
from graphs.parameter_graph.structure import GraphStructure, graph_structure
from graphs.parameter_graph.vocabulary import EDGE_KINDS, EDGE_OPS, NODE_KINDS

__all__ = [
    "EDGE_KINDS", "EDGE_OPS", "NODE_KINDS", "GraphStructure", "graph_structure", "layer_graph",
    "parameter_graph", "scatter_parameters", "to_networkx",
]  # fmt: skip
