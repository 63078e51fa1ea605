"""What `metazoo doctor` reports: versions, hardware, threads, and what is missing with the way to get it."""

import importlib.util
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any


def report() -> list[dict[str, Any]]:
    """Rows of `check`, `found`, `remedy`; an empty remedy means that all is well."""
    import torch
    from packaging.requirements import Requirement

    cuda = torch.cuda.is_available()
    rows: list[dict[str, Any]] = [
        {"check": "metazoo", "found": version("metazoo"), "remedy": ""},
        {"check": "python", "found": platform.python_version(), "remedy": ""},
        {
            "check": "device",
            "found": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "remedy": "",
        },
        {"check": "cores", "found": os.cpu_count(), "remedy": ""},
        {"check": "torch threads", "found": torch.get_num_threads(), "remedy": ""},
        {"check": "backend", "found": os.environ.get("METAZOO_BACKEND", "chosen by device"), "remedy": ""},
        {"check": "data folder", "found": os.environ.get("METAZOO_DATA", "user cache"), "remedy": ""},
    ]
    for text in requires("metazoo") or []:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
            remedy = "" if requirement.specifier.contains(found) else f"pip install '{requirement}'"
        except PackageNotFoundError:
            found, remedy = "missing", f"pip install '{requirement}'"
        rows.append({"check": requirement.name, "found": found, "remedy": remedy})
    optional = {"triton": "GPU kernels: pip install 'metazoo[gpu]'", "dask": "scale-out: pip install 'metazoo[dask]'"}
    for module, remedy in optional.items():
        there = importlib.util.find_spec(module) is not None
        rows.append({"check": f"{module} (optional)", "found": version(module) if there else "missing",
                     "remedy": "" if there else remedy})  # fmt: skip
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    rows.append({"check": "C++ compiler (optional)", "found": compiler or "missing",
                 "remedy": "" if compiler else "torch.compile on the CPU: install g++"})  # fmt: skip
    return rows
