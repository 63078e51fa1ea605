"""Rows of the paper catalogue that analyses implement: every module that names its row in `ROW` is found."""

import importlib
import pkgutil


def implemented_papers() -> dict[str, list[str]]:
    """Row id → names of the analyses."""
    import analysis

    found: dict[str, list[str]] = {}
    for info in pkgutil.walk_packages(analysis.__path__, "analysis."):
        row = getattr(importlib.import_module(info.name), "ROW", None)
        if row is not None:
            found.setdefault(row, []).append(info.name)
    return found
