"""`metazoo populate`: train a population of models into a zoo."""

from typing import Annotated

import typer

from modelzoo.console import console, print_json, print_table
from modelzoo.key_values import read_key_values


def register(app: typer.Typer) -> None:
    """Add `populate`."""

    @app.command()
    def populate(
        zoo: Annotated[str, typer.Argument(help="Folder (or s3://…) of the zoo; made if it is not there.")],
        family: Annotated[str, typer.Argument(help="family or family.variant, see: metazoo families")],
        models: Annotated[int, typer.Option(help="How many models.")],
        task: Annotated[str | None, typer.Option(help="Task, default the family's own; see: metazoo tasks")] = None,
        name: Annotated[str | None, typer.Option(help="Name of the population, default FAMILY-TASK.")] = None,
        seed: Annotated[int, typer.Option(help="Seed of the population.")] = 0,
        steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
        batch_size: Annotated[int | None, typer.Option(help="Samples a step.")] = None,
        optimizer: Annotated[str | None, typer.Option(help="adam or sgd.")] = None,
        learning_rate: Annotated[str | None, typer.Option(help="Number or range 1e-4:1e-1, per model.")] = None,
        weight_decay: Annotated[str | None, typer.Option(help="Number or range, per model.")] = None,
        gradient_clip: Annotated[float | None, typer.Option(help="Largest gradient norm per model.")] = None,
        data_fraction: Annotated[str, typer.Option(help="Share of the training data, or range 0.1:1.")] = "1.0",
        init_scale: Annotated[str, typer.Option(help="Factor on the initial weights, or range.")] = "1.0",
        splits: Annotated[str, typer.Option(help="Shares of train, validation and test, 55:5:10.")] = "80:10:10",
        checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
        metric_every: Annotated[int | None, typer.Option(help="Steps between entries of the curves.")] = None,
        block: Annotated[int | None, typer.Option(help="Models in lock-step.")] = None,
        processes: Annotated[
            int | None, typer.Option(help="That train, one thread each; default: by family and by how long it takes.")
        ] = None,
        tiny: Annotated[bool, typer.Option("--tiny", help="Start from the family's smallest config.")] = False,
        set_: Annotated[list[str] | None, typer.Option("--set", help="Config field, key=value; repeatable.")] = None,
        json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    ) -> None:
        """Train a population of models; run the same command again to go on after an interruption."""
        import time

        from modelzoo.training import PopulationConfig
        from modelzoo.training import populate as run

        config = PopulationConfig.read(
            family=family, family_config=read_key_values(set_), task=task, models=models, seed=seed,
            steps=steps, batch_size=batch_size, optimizer=optimizer, learning_rate=learning_rate,
            weight_decay=weight_decay, gradient_clip=gradient_clip, data_fraction=data_fraction, init_scale=init_scale,
            checkpoint_every=checkpoint_every, metric_every=metric_every, block=block, tiny=tiny,
            splits=splits,
        )  # fmt: skip
        started = time.perf_counter()
        population = run(zoo, config, name, progress=not json, processes=processes)
        seconds = time.perf_counter() - started
        table, metric = population.table, f"test_{population.task.metric}"
        scores = table.loc[table["status"] == "ok", metric]
        summary = {
            "population": population.name,
            "models": len(population),
            "diverged": int((table["status"] == "diverged").sum()),
            f"{metric} median": scores.median(),
            "min": scores.min(),
            "max": scores.max(),
            "trivial": population.task.trivial_score(),
            "seconds": seconds,
        }
        if json:
            print_json(summary)
        else:
            print_table([summary], f"populated {zoo}")
            console.print(f"look at it: metazoo show {zoo} {population.name}", highlight=False, markup=False)
