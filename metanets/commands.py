"""The sub-commands this package adds to `metazoo`."""

import typer


def register(app: typer.Typer) -> None:
    """Add this package's commands."""
