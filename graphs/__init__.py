"""From any torch module to its program, symmetry group and parameter graph."""

from graphs.elements import GroupElement
from graphs.factors import Factor, Slot
from graphs.group import PoolingAxis, SymmetryGroup
from graphs.labels import Labelling, label
from graphs.program import Op, Program, Reference, Value, trace
from graphs.symmetry import infer, symmetry
from graphs.verify import Verdict, verify

__all__ = [
    "Factor", "GroupElement", "Labelling", "Op", "PoolingAxis", "Program", "Reference", "Slot", "SymmetryGroup",
    "Value", "Verdict", "infer", "label", "symmetry", "trace", "verify",
]  # fmt: skip
