"""What `metazoo doctor` reports: versions, hardware, threads, and what is missing with the way to get it."""

import importlib.util
import os
import platform
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import torch
from packaging.requirements import Requirement

from modelzoo.kernels import native
from modelzoo.kernels.registry import paths

OPTIONAL = {
    "triton": "for GPU kernels: pip install 'metazoo[gpu]'",
    "dask": "to populate on several machines: pip install 'metazoo[dask]'",
}


def report() -> list[dict[str, Any]]:
    """Rows of `check`, `found`, `remedy`; an empty remedy means that all is well."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    compiler = native.compiler()
    rows = [
        _row("metazoo", version("metazoo")),
        _row("python", platform.python_version()),
        _row("device", device),
        _row("cores", os.cpu_count()),
        _row("torch threads", torch.get_num_threads()),
        _row("backend", os.environ.get("METAZOO_BACKEND", "chosen by device")),
        _row("data folder", os.environ.get("METAZOO_DATA", "user cache")),
        _row(
            "C++ compiler (optional)",
            compiler or "missing",
            "" if compiler else "for the fast paths of the CPU: install g++",
        ),
    ]
    for module, remedy in OPTIONAL.items():
        there = importlib.util.find_spec(module) is not None
        rows.append(_row(f"{module} (optional)", version(module) if there else "missing", "" if there else remedy))
    for name, chosen, written in paths():
        rows.append(_row(f"kernel {name}", f"{chosen} (of {written})"))
    for requirement in map(Requirement, requires("metazoo") or []):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            rows.append(_requirement(requirement))
    return rows


def _row(check: str, found: Any, remedy: str = "") -> dict[str, Any]:
    return {"check": check, "found": found, "remedy": remedy}


def _requirement(requirement: Requirement) -> dict[str, Any]:
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return _row(requirement.name, "missing", f"pip install '{requirement}'")
    fits = requirement.specifier.contains(found, prereleases=True)
    return _row(requirement.name, found, "" if fits else f"pip install '{requirement}'")
