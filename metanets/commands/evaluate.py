"""`metazoo evaluate`: the metrics of a run, on every split."""

from pathlib import Path
from typing import Annotated

import typer

from modelzoo.console import print_table


def register(app: typer.Typer) -> None:
    """Add `evaluate`."""

    @app.command()
    def evaluate(
        run: Annotated[Path, typer.Argument(help="Run folder of metazoo train.")],
        zoo: Annotated[str | None, typer.Option(help="Another zoo to evaluate on.")] = None,
        population: Annotated[list[str] | None, typer.Option(help="Another population; repeatable.")] = None,
        baselines: Annotated[bool, typer.Option("--baselines", help="Train the baselines, and show them too.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    ) -> None:
        """Show the metrics of a run on every split, beside the baselines if asked."""
        from metanets import runs
        from metanets.training import baselines as train_baselines
        from metanets.training import evaluate as measure

        loaded = runs.load(run)
        rows = measure(loaded, zoo, population)
        if baselines:
            rows += train_baselines(loaded, progress=not json)
        print_table(rows, f"{run}: {loaded.record.target}", json)
