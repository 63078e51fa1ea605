"""The import rule of the house: an arrow points only downward, and the folders are the ones that were fixed."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("modelzoo", "graphs", "metanets", "analysis", "app")  # from the ground up
SOURCES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def imported_packages(source: str) -> set[str]:
    """Top-level packages that a module imports, anywhere in it (also inside functions and type-checking blocks)."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in {"importlib.import_module", "import_module", "__import__"}
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            found.add(str(node.args[0].value).split(".")[0])
    return found


def upward(layer: str, source: str) -> set[str]:
    """Packages above `layer` that the source imports."""
    return imported_packages(source) & set(LAYERS[LAYERS.index(layer) + 1 :])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downward(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    assert not upward(layer, path.read_text()), f"{path.relative_to(ROOT)} imports a package above {layer}"


def test_the_import_checker_sees_every_way_to_import() -> None:
    for source in (
        "import graphs.symmetry",
        "def f():\n    from graphs import trace",
        "import importlib\nimportlib.import_module('graphs.labels')",
    ):
        assert upward("modelzoo", source) == {"graphs"}
    assert not upward("graphs", "import modelzoo.family")


def test_sources_stay_readable_in_one_sitting() -> None:
    long = [str(path.relative_to(ROOT)) for path in SOURCES if len(path.read_text().splitlines()) > 500]
    assert not long, f"over 500 lines: {long}"
    assert not [path for path in SOURCES if path.name == "utils.py"]


def test_only_the_fixed_top_level_packages_exist() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages <= {*LAYERS, "tests", "benchmarks"}
