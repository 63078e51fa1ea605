"""Tangent kernels: of a module as it is, of infinitely wide networks, and what training does in their light."""
