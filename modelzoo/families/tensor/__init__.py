"""Tensor: layers whose weights are factorised as tensor networks."""
