"""Operator: networks that map functions to functions."""
