"""`metazoo weight-task` and `metazoo weight-tasks`: what is learned from weights beside columns of the model table."""

from typing import Annotated

import typer

from modelzoo.console import print_table
from modelzoo.key_values import read_key_values


def register(app: typer.Typer) -> None:
    """Add `weight-task` and `weight-tasks`."""

    @app.command()
    def weight_tasks(
        json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    ) -> None:
        """List every task of `metazoo weight-task`, with what is measured."""
        from metanets.weight_task import weight_tasks as registered

        rows = [
            {"task": each.name, "metric": each.metric, "better": "higher" if each.higher_is_better else "lower", "summary": each.summary}
            for each in registered().values()
        ]  # fmt: skip
        print_table(rows, "tasks on weights", json)

    @app.command()
    def weight_task(
        task: Annotated[str, typer.Argument(help="Its name, see: metazoo weight-tasks")],
        zoo: Annotated[str, typer.Argument(help="Folder (or s3://…) of the zoo.")],
        population: Annotated[str, typer.Argument(help="Population to learn from; see: metazoo ls ZOO")],
        metanet: Annotated[str, typer.Option(help="Name of the metanet: graph_metanet, unf, …")] = "graph_metanet",
        epochs: Annotated[int, typer.Option(help="Passes over the training models.")] = 40,
        batch_size: Annotated[int, typer.Option(help="Models a step.")] = 64,
        learning_rate: Annotated[float, typer.Option(help="Peak of the cosine schedule.")] = 4e-3,
        weight_decay: Annotated[float, typer.Option(help="Decoupled weight decay.")] = 0.02,
        seed: Annotated[int, typer.Option(help="Seed of initialisation and batches.")] = 0,
        set_: Annotated[
            list[str] | None,
            typer.Option("--set", help="Config field of the metanet, key=value (dropout=0); repeatable."),
        ] = None,
        json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    ) -> None:
        """Train a metanet on a task on weights and measure it on the test split, beside baselines.

        Example: metazoo weight-task dilate demo/zoo digits-inr --set dropout=0
        """
        from metanets.training import TrainingConfig
        from metanets.weight_task import read_block
        from metanets.weight_task import weight_task as named
        from modelzoo.store import Zoo

        found = named(task)
        config = TrainingConfig.read(
            metanet=metanet, fields=read_key_values(set_), epochs=epochs, batch_size=batch_size,
            learning_rate=learning_rate, weight_decay=weight_decay, seed=seed,
        )  # fmt: skip
        print_table(
            found.measure(read_block(Zoo.open(zoo), population), config), f"{population}: {task}, test split", json
        )
