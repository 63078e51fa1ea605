"""Families whose data flows straight through: multilayer perceptrons and their kin."""
