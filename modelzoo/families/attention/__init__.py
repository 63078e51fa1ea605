"""Attention: networks whose positions look at one another."""
