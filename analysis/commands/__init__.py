"""The sub-commands this package adds to `metazoo`; every module of this folder adds its own through `register`."""

import importlib
import pkgutil

import typer


def register(app: typer.Typer) -> None:
    """Add the commands of every module in this folder."""
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        importlib.import_module(f"{__name__}.{info.name}").register(app)
