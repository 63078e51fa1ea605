"""Families that slide kernels over images."""
