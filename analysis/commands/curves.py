"""`metazoo curves`: the learning curves of metanets, in one table and one figure."""

from pathlib import Path
from typing import Annotated

import typer

from analysis.commands.analyze import check_figure
from modelzoo.console import console, print_table


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def curves(
        runs: Annotated[
            list[Path],
            typer.Argument(help="Runs of metazoo train, finished or not, or folders of them (a leaderboard)."),
        ],
        out: Annotated[Path | None, typer.Option(help="Write the figure to this file (.html).")] = None,
        json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    ) -> None:
        """Show how metanets learned: epochs, and losses and validation metrics of the best one; the curves as a figure.

        Example: metazoo curves runs/leaderboard-digits-cnn --out curves.html
        """
        from analysis.learning_curves import LearningCurves
        from metanets.runs import find_curves

        check_figure(out)
        found = LearningCurves(find_curves(runs))
        rows = found.to_frame().to_dict("records")
        print_table([{str(key): value for key, value in row.items()} for row in rows], "learning curves", json)
        if out is not None:
            found.plot(height=520).write_html(out)
            if not json:
                console.print(f"wrote {out}", highlight=False)
