"""The `metazoo` command: a thin shell that every package adds its own sub-commands to.

A package contributes through the entry-point group `metazoo.commands`: a function `(typer.Typer) -> None`. So this file
imports nothing from the packages above it.
"""

import sys
from functools import cache
from importlib.metadata import entry_points

import click
import typer
from rich.markup import escape

from modelzoo.console import errors
from modelzoo.errors import UserError

app = typer.Typer(
    name="metazoo",
    help="Weight-space learning: populate zoos of models, find their symmetries, learn from their weights.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@cache
def assemble() -> typer.Typer:
    """The application with the sub-commands of every installed package, in the order of the packages' names."""
    for entry in sorted(entry_points(group="metazoo.commands"), key=lambda entry: entry.name):
        entry.load()(app)
    return app


def main() -> None:
    """Run the command line; a `UserError` becomes one line on standard error and its exit code."""
    try:
        assemble()()
    except UserError as error:
        errors.print("[red]error:[/]", escape(str(error)), highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        sys.exit(130)


if __name__ == "__main__":
    main()
