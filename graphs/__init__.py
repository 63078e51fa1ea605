"""From any torch module to its program, symmetry group and parameter graph."""

from graphs.program import Op, Program, Reference, Value, trace

__all__ = ["Op", "Program", "Reference", "Value", "trace"]
