"""`metazoo train`: train a metanet on populations of a zoo."""

from pathlib import Path
from typing import Annotated

import typer

from modelzoo.console import console, print_json, print_table
from modelzoo.errors import UserError
from modelzoo.key_values import read_key_values


def register(app: typer.Typer) -> None:
    """Add `train`."""

    @app.command()
    def train(
        zoo: Annotated[str, typer.Argument(help="Folder (or s3://…) of the zoo.")],
        populations: Annotated[list[str], typer.Argument(help="Populations to learn from; see: metazoo ls ZOO")],
        out: Annotated[
            Path | None, typer.Option(help="Run folder, default: runs/METANET-POPULATIONS-TARGET beside the zoo.")
        ] = None,
        metanet: Annotated[str, typer.Option(help="Name of the metanet: graph_metanet, flat_mlp, …")] = "graph_metanet",
        target: Annotated[str, typer.Option(help="Column of the model table to predict.")] = "label",
        kind: Annotated[str | None, typer.Option(help="classification or regression; default: by the column.")] = None,
        epochs: Annotated[int, typer.Option(help="Passes over the training models.")] = 40,
        batch_size: Annotated[int, typer.Option(help="Models a step.")] = 64,
        learning_rate: Annotated[float, typer.Option(help="Peak of the cosine schedule.")] = 4e-3,
        weight_decay: Annotated[float, typer.Option(help="Decoupled weight decay.")] = 0.02,
        patience: Annotated[
            int | None, typer.Option(help="Stop after so many epochs without a better one; default: never early.")
        ] = None,
        average: Annotated[float, typer.Option(help="Decay of a moving average of the weights, 0 for none.")] = 0.0,
        augment_: Annotated[
            list[str] | None,
            typer.Option("--augment", help="Augmentation, NAME or NAME=strength (orbit, noise=0.1); repeatable."),
        ] = None,
        data: Annotated[
            str, typer.Option(help="Where weights are: memory, mapped (a local copy) or streamed (from the zoo).")
        ] = "memory",
        precision: Annotated[str, typer.Option(help="Of the arithmetic: 32, bf16-mixed or 64.")] = "32",
        models: Annotated[int | None, typer.Option(help="Learn from so many training models; default: all.")] = None,
        start_from: Annotated[
            Path | None,
            typer.Option(help="A finished run, or a seed folder of metazoo weight-task, whose metanet it starts from."),
        ] = None,
        seed: Annotated[int, typer.Option(help="Seed of initialisation and batches.")] = 0,
        set_: Annotated[
            list[str] | None,
            typer.Option("--set", help="Config field of the metanet, key=value (width=64); repeatable."),
        ] = None,
        json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    ) -> None:
        """Train a network that reads networks: from the weights of a zoo's models to a column of its model table.

        The splits are those of the zoo. Run the same command again to go on after an interruption.

        The run folder also has the learning curves: for metazoo curves, and in tensorboard/ for TensorBoard.

        Example: metazoo train demo/zoo digits-cnn --target test_accuracy
        """
        from metanets.contender import strength
        from metanets.training import TrainingConfig, evaluate
        from metanets.training import train as run_training

        config = TrainingConfig.read(
            metanet=metanet, fields=read_key_values(set_), target=target, kind=kind, epochs=epochs,
            batch_size=batch_size, learning_rate=learning_rate, weight_decay=weight_decay, patience=patience,
            average=average, data=data, precision=precision, augment=dict(strength(text) for text in augment_ or []), seed=seed,
            models=models, start_from=None if start_from is None else str(start_from),
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
        if record.taken_over is not None:
            console.print(
                f"started from {start_from}: {record.taken_over} of its tensors", highlight=False, markup=False
            )
        console.print(f"{record.parameters:,} parameters, {record.seconds:.0f} s{left_out}; run folder: {run.path}", highlight=False)  # fmt: skip
