"""`metazoo train`: train a metanet on populations of a zoo."""

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from modelzoo.console import console, print_json, print_table
from modelzoo.errors import UserError


def register(app: typer.Typer) -> None:
    """Add `train`."""

    @app.command()
    def train(
        zoo: Annotated[str, typer.Argument(help="Folder (or s3://…) of the zoo.")],
        populations: Annotated[list[str], typer.Argument(help="Populations to learn from; see: metazoo ls ZOO")],
        out: Annotated[
            Path | None, typer.Option(help="Run folder, default: runs/METANET-TARGET beside the zoo.")
        ] = None,
        metanet: Annotated[str, typer.Option(help="Name of the metanet.")] = "graph_metanet",
        target: Annotated[str, typer.Option(help="Column of the model table to predict.")] = "label",
        kind: Annotated[str | None, typer.Option(help="classification or regression; default: by the column.")] = None,
        epochs: Annotated[int | None, typer.Option(help="Passes over the training models.")] = None,
        batch_size: Annotated[int | None, typer.Option(help="Models a step.")] = None,
        learning_rate: Annotated[float | None, typer.Option(help="Peak of the cosine schedule.")] = None,
        weight_decay: Annotated[float | None, typer.Option(help="Decoupled weight decay.")] = None,
        patience: Annotated[int | None, typer.Option(help="Stop after so many epochs without a better one.")] = None,
        average: Annotated[float | None, typer.Option(help="Decay of a moving average of the weights.")] = None,
        augment: Annotated[float | None, typer.Option(help="Spread of random symmetry-group elements.")] = None,
        seed: Annotated[int, typer.Option(help="Seed of initialisation and batches.")] = 0,
        set_: Annotated[list[str] | None, typer.Option("--set", help="Config field, key=value; repeatable.")] = None,
        json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    ) -> None:
        """Train a metanet; run the same command again to go on after an interruption."""
        from metanets.training import TrainingConfig, evaluate
        from metanets.training import train as run_training

        config = TrainingConfig.read(
            metanet=metanet, fields=dict(_pair(text) for text in set_ or []), target=target, kind=kind, epochs=epochs,
            batch_size=batch_size, learning_rate=learning_rate, weight_decay=weight_decay, patience=patience,
            average=average, augment=augment, seed=seed,
        )  # fmt: skip
        if out is None:
            if "://" in zoo:
                raise UserError("name a folder for the run with --out.", 2)
            out = Path(zoo).parent / "runs" / f"{metanet}-{'-'.join(populations)}-{target}"
        run = run_training(zoo, populations, out, config, progress=not json)
        record, rows = run.record, evaluate(run)
        if json:
            print_json({"run": str(run.path), **record.model_dump(mode="json")})
            return
        print_table(rows, f"{record.metanet} on {', '.join(record.populations)}: {record.target}")
        left_out = f", {record.diverged} diverged models were left out" if record.diverged else ""
        console.print(f"{record.parameters:,} parameters, {record.seconds:.0f} s{left_out}; run folder: {run.path}", highlight=False)  # fmt: skip


def _pair(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UserError(f"--set takes key=value, got {text!r}.", 2)
    try:
        return key, json_module.loads(value)
    except json_module.JSONDecodeError:
        return key, value
