"""Metanets, one file each; `metanets.metanet` finds them here."""
