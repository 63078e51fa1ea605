"""Families whose members are put together from parts."""
