"""How every operator carries scales on, one small function an operator or a family of operators."""

from graphs.scalings.rules import complex_numbers, contractions, indexing, normalization, pointwise, shapes

__all__ = ["complex_numbers", "contractions", "indexing", "normalization", "pointwise", "shapes"]
