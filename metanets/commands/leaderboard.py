"""`metazoo leaderboard`: every metanet and baseline on the same models, in one table."""

from pathlib import Path
from typing import Annotated

import typer

from modelzoo.console import console, errors, print_table
from modelzoo.errors import UserError


def register(app: typer.Typer) -> None:
    """Add `leaderboard`."""

    @app.command()
    def leaderboard(
        zoo: Annotated[str, typer.Argument(help="Folder (or s3://…) of the zoo.")],
        populations: Annotated[list[str], typer.Argument(help="Populations, learned from together.")],
        target: Annotated[
            list[str] | None, typer.Option(help="Column of the model table to predict, default label; repeatable.")
        ] = None,
        metanet: Annotated[
            list[str] | None,
            typer.Option(
                help="Metanet or baseline, NAME[,field=value…][+AUGMENTATION[=strength]…][@FOLDER to start from]; repeatable. "
                "Default: all that can read these models."
            ),
        ] = None,
        seeds: Annotated[int, typer.Option(help="Trainings of each, with the seeds 0, 1, ….")] = 3,
        epochs: Annotated[int, typer.Option(help="Passes over the training models.")] = 40,
        batch_size: Annotated[int, typer.Option(help="Models a step.")] = 64,
        learning_rate: Annotated[float | None, typer.Option(help="Peak; default: each metanet's own.")] = None,
        weight_decay: Annotated[float | None, typer.Option(help="Decoupled; default: each metanet's own.")] = None,
        patience: Annotated[int | None, typer.Option(help="Stop after so many epochs without a better one.")] = None,
        average: Annotated[
            float | None, typer.Option(help="Decay of a moving average of the weights; default: none.")
        ] = None,
        data: Annotated[
            str | None, typer.Option(help="Where weights are: memory (default), mapped or streamed, for baselines too.")
        ] = None,
        precision: Annotated[
            str | None, typer.Option(help="Of the arithmetic: 32 (default), bf16-mixed or 64.")
        ] = None,
        models: Annotated[int | None, typer.Option(help="Learn from so many training models; default: all.")] = None,
        out: Annotated[
            Path | None, typer.Option(help="Folder, default: runs/leaderboard-POPULATIONS beside the zoo.")
        ] = None,
        csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
        tiny: Annotated[bool, typer.Option("--tiny", help="The smallest metanets, for a trial.")] = False,
    ) -> None:
        """Compare metanets and baselines: test metrics as mean ± sd over seeds, parameters, processor time and memory of a step.

        What is stored is not trained again: repeat the command to go on, or with more seeds, targets or metanets.

        Example: metazoo leaderboard demo/zoo digits-cnn --target test_accuracy --seeds 3 --epochs 25
        """
        from metanets.leaderboard import run

        if csv and json:
            raise UserError("--csv and --json exclude each other; choose one.", 2)
        if out is None:
            if "://" in zoo:
                raise UserError("name a folder for the leaderboard with --out.", 2)
            out = Path(zoo).parent / "runs" / f"leaderboard-{'-'.join(populations)}"
        training = {
            "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "weight_decay": weight_decay,
            "patience": patience, "average": average, "data": data, "precision": precision, "models": models,
        }  # fmt: skip
        quiet = csv or json
        board = run(
            zoo, populations, out, target or ["label"], metanet or (), seeds, training, tiny,
            progress=lambda text: errors.print(text, style="dim", highlight=False, markup=False),
        )  # fmt: skip
        if csv:
            print(board.to_frame().to_csv(index=False), end="")
        elif json:
            print_table(board.rows, json=True)
        else:
            print_table(board.shown(), f"{', '.join(populations)}: test split, {epochs} epochs")
        for name, reason in board.left_out.items():
            errors.print(f"left out {name}: {reason}", highlight=False, markup=False)
        if not quiet:
            console.print(f"runs and scores: {out}", highlight=False, markup=False)
