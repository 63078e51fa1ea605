"""From any torch module to its program, symmetry group and parameter graph.

What this package offers is imported when it is first asked for: torch and torch_geometric take seconds, and the command
line must print its help without them.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphs.canonical import CanonicalForm, balanced, canonicalize
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
    "SymmetryGroup", "Value", "Verdict", "balanced", "canonicalize", "completeness", "functional_dimension", "graph_structure",
    "infer", "label", "layer_graph", "parameter_graph", "scatter_parameters", "symmetry", "to_networkx", "trace",
    "verify",
]  # fmt: skip

_HOMES = {
    "canonical": ("CanonicalForm", "balanced", "canonicalize"),
    "completeness": ("Completeness", "FunctionalDimension", "completeness", "functional_dimension"),
    "elements": ("GroupElement",),
    "factors": ("Factor", "Slot"),
    "group": ("PoolingAxis", "SymmetryGroup"),
    "labels": ("Labelling", "label"),
    "parameter_graph": (
        "EDGE_KINDS", "EDGE_OPS", "NODE_KINDS", "GraphStructure", "graph_structure", "layer_graph", "parameter_graph",
        "scatter_parameters", "to_networkx",
    ),
    "program": ("Op", "Program", "Reference", "Value", "trace"),
    "symmetry": ("infer", "symmetry"),
    "verify": ("Verdict", "verify"),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """`graphs.symmetry` is the function also after its module of the same name was imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
