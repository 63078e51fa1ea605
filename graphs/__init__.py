"""From any torch module to its program, symmetry group and parameter graph."""

from graphs.canonical import CanonicalForm, canonicalize
from graphs.completeness import Completeness, FunctionalDimension, completeness, functional_dimension
from graphs.elements import GroupElement
from graphs.factors import Factor, Slot
from graphs.group import PoolingAxis, SymmetryGroup
from graphs.labels import Labelling, label
from graphs.parameter_graph import (
    EDGE_KINDS,
    EDGE_OPS,
    NODE_KINDS,
    GraphStructure,
    graph_structure,
    layer_graph,
    parameter_graph,
    scatter_parameters,
    to_networkx,
)
from graphs.program import Op, Program, Reference, Value, trace
from graphs.symmetry import infer, symmetry
from graphs.verify import Verdict, verify

__all__ = [
    "EDGE_KINDS", "EDGE_OPS", "NODE_KINDS", "CanonicalForm", "Completeness", "Factor", "FunctionalDimension",
    "GraphStructure", "GroupElement", "Labelling", "Op", "PoolingAxis", "Program", "Reference", "Slot",
    "SymmetryGroup", "Value", "Verdict", "canonicalize", "completeness", "functional_dimension", "graph_structure",
    "infer", "label", "layer_graph", "parameter_graph", "scatter_parameters", "symmetry", "to_networkx", "trace",
    "verify",
]  # fmt: skip
