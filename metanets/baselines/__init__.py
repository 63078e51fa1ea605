"""Baselines, one file each; `metanets.baseline` finds them here."""
