"""`metazoo embed`: the embedding of a run's models, as a file and as a picture."""

from pathlib import Path
from typing import Annotated

import typer

from modelzoo.console import console, print_json


def register(app: typer.Typer) -> None:
    """Add `embed`."""

    @app.command()
    def embed(
        run: Annotated[Path, typer.Argument(help="Run folder of metazoo train.")],
        out: Annotated[Path | None, typer.Option(help="PNG to write, default: embedding.png in the run.")] = None,
        method: Annotated[str, typer.Option(help="pca or tsne.")] = "pca",
        split: Annotated[str | None, typer.Option(help="Only the models of this split.")] = None,
        json: Annotated[bool, typer.Option("--json", help="Print paths and sizes as JSON.")] = False,
    ) -> None:
        """Project the embeddings of a run's models to two dimensions; writes a PNG and a CSV beside it."""
        from metanets import runs
        from metanets.projection import write

        picture, table = write(runs.load(run), out, method, split)
        if json:
            print_json({"picture": str(picture), "table": str(table), "embeddings": str(run / runs.EMBEDDINGS)})
        else:
            console.print(f"wrote {picture} and {table}; all embeddings: {run / runs.EMBEDDINGS}", highlight=False)
