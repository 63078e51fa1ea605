"""`metazoo weight-task`, `weight-tasks` and `weight-leaderboard`: what is learned from weights beside columns of the model table."""

from pathlib import Path
from typing import Annotated

import typer

from modelzoo.console import console, errors, print_table
from modelzoo.errors import UserError


def folder_of(zoo: str, out: Path | None) -> Path:
    """Where results are kept; raises `UserError` where there is no folder beside the zoo."""
    if out is None and "://" in zoo:
        raise UserError("name a folder for the results with --out.", 2)
    return out or Path(zoo).parent / "runs" / "weight-tasks"


def register(app: typer.Typer) -> None:
    """Add `weight-task`, `weight-tasks` and `weight-leaderboard`."""

    @app.command()
    def weight_tasks(
        json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    ) -> None:
        """List every task of `metazoo weight-task`, with its fields and what is measured."""
        from metanets.weight_task import weight_tasks as registered

        rows = [
            {"task": each.name, "metric": each.metric, "better": "higher" if each.higher_is_better else "lower", "fields": ",".join(each.fields), "summary": each.summary}
            for each in registered().values()
        ]  # fmt: skip
        print_table(rows, "tasks on weights", json)

    @app.command()
    def weight_task(
        task: Annotated[str, typer.Argument(help="NAME[,field=value…], see: metazoo weight-tasks")],
        zoo: Annotated[str, typer.Argument(help="Folder (or s3://…) of the zoo.")],
        population: Annotated[str, typer.Argument(help="Population to learn from; see: metazoo ls ZOO")],
        metanet: Annotated[
            list[str] | None,
            typer.Option(help="NAME[,field=value…], default the task's own; repeatable: graph_metanet,dropout=0"),
        ] = None,
        seeds: Annotated[int, typer.Option(help="Trainings of each, with the seeds 0, 1, ….")] = 1,
        epochs: Annotated[int | None, typer.Option(help="Passes over the training models.")] = None,
        batch_size: Annotated[int | None, typer.Option(help="Models a step.")] = None,
        learning_rate: Annotated[float | None, typer.Option(help="Peak of the cosine schedule.")] = None,
        weight_decay: Annotated[float | None, typer.Option(help="Decoupled weight decay.")] = None,
        out: Annotated[
            Path | None, typer.Option(help="Folder of the results, default: runs/weight-tasks beside the zoo.")
        ] = None,
        name: Annotated[
            str | None, typer.Option(help="Write sampled models into the zoo as a population of this name.")
        ] = None,
        models: Annotated[int, typer.Option(min=1, help="How many, with --name.")] = 100,
        json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    ) -> None:
        """Train metanets on a task on weights and measure them on the test split, beside baselines.

        What is stored is not trained again: repeat the command to go on, or with more metanets and seeds.

        Example: metazoo weight-task dilate demo/zoo digits-inr --metanet graph_metanet,dropout=0 --metanet flat_mlp
        """
        from metanets.hyper.population import check_free
        from metanets.weight_board import Bench, run, shown

        folder = folder_of(zoo, out)
        training = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "weight_decay": weight_decay}  # fmt: skip
        bench = Bench(task, zoo, population, folder, training)
        if name is not None:
            check_free(zoo, name)
        rows = run(
            bench, metanet or (), seeds,
            progress=lambda text: errors.print(text, style="dim", highlight=False, markup=False),
        )  # fmt: skip
        if name is not None:
            from metanets.weight_samples import write

            write(bench, (metanet or [bench.task.metanet])[0], models, name)
        print_table(rows if json else shown(rows), f"{population}: {task}, test split", json)
        if not json:
            console.print(f"results: {bench.folder}", highlight=False, markup=False)

    @app.command()
    def weight_leaderboard(
        folder: Annotated[Path, typer.Argument(help="Folder of results: runs/weight-tasks")],
        json: Annotated[bool, typer.Option("--json", help="Print every method and metric as JSON.")] = False,
    ) -> None:
        """Show what `metazoo weight-task` has stored as one table, metanets × tasks, mean ± sd over seeds.

        Example: metazoo weight-leaderboard demo/runs/weight-tasks
        """
        from metanets.weight_board import board
        from metanets.weight_board import rows as stored

        table = stored(folder)
        if not table:
            raise UserError(f"{str(folder)!r} holds no finished weight task; make some with: metazoo weight-task TASK ZOO POPULATION.")  # fmt: skip
        print_table(table if json else board(table), f"tasks on weights in {folder}", json)
