"""From any torch module to its program, symmetry group and parameter graph."""
