"""Recursive: the same cell applied from the leaves of a tree to its root."""
