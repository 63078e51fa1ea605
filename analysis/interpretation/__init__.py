"""Interpretation: what weights and activations of single models say, and how representations of several compare."""
