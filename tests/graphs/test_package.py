"""The package is light until it is used, and its names are what they say."""

import importlib
import subprocess
import sys
from types import ModuleType

import pytest

import graphs

HELP = """
import sys
from modelzoo import cli
sys.argv = ["metazoo", "--help"]
try:
    cli.main()
except SystemExit as end:
    assert not end.code, end.code
print("loaded:", *sorted({"torch", "torch_geometric", "lightning", "streamlit", "zarr", "pandas"} & set(sys.modules)))
"""


def test_help_loads_nothing_heavy() -> None:
    found = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert "graph" in found.stdout
    assert found.stdout.splitlines()[-1] == "loaded:"


def test_every_name_is_there_and_wins_over_its_module() -> None:
    for name in ("symmetry", "verify", "completeness", "parameter_graph"):
        importlib.import_module(f"graphs.{name}")
    found = {name: getattr(graphs, name) for name in graphs.__all__}
    assert not [name for name, value in found.items() if isinstance(value, ModuleType)]
    assert sorted(found) == sorted(graphs._HOME)


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'symmetries'"):
        graphs.symmetries  # noqa: B018
