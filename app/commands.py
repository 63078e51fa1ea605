"""`metazoo app`: serve the front-end on this machine."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command that starts the front-end."""

    @app.command("app")
    def serve(
        zoo: Annotated[Path | None, typer.Option(help="Zoo to look at; without one only families can be seen.")] = None,
        runs: Annotated[
            Path | None, typer.Option(help="Folder of metanet runs; default: the folders beside the zoo.")
        ] = None,
        port: Annotated[int | None, typer.Option(help="Port; default: the first free one from 8501.")] = None,
    ) -> None:
        """Look at a zoo, its models, their symmetries and the metanets trained on it, in the browser."""
        from app.server import run

        run(zoo, runs, port)
