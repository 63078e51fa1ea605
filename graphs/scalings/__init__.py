"""Scalings, signs, phases and linear groups: what a linear system over the Program finds beyond permutations."""
