"""The catalogue of papers the platform implements, and what implements each."""

import csv
from importlib.metadata import entry_points
from importlib.resources import files
from typing import Any


def catalogue() -> list[dict[str, Any]]:
    """One row a paper: id, title, role, and the names of the registrations that implement it.

    Every package that registers things tied to papers offers `() -> dict[row id, list of names]` through the
    entry-point group `metazoo.papers`.
    """
    implemented: dict[str, list[str]] = {}
    for entry in entry_points(group="metazoo.papers"):
        for row, names in entry.load()().items():
            implemented.setdefault(row, []).extend(names)
    with (files("modelzoo") / "papers.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [{**row, "implemented by": sorted(implemented.get(row["id"], []))} for row in rows]


def implemented_families() -> dict[str, list[str]]:
    """Rows of the catalogue that registered families implement."""
    from modelzoo.family import families

    found: dict[str, list[str]] = {}
    for family in families().values():
        if family.paper.row:
            found.setdefault(family.paper.row, []).append(f"family {family.name}")
    return found
