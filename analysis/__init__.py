"""Functions from models or populations to result objects with plots."""
