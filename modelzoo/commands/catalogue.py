"""`metazoo families`, `tasks`, `papers` and `doctor`: what there is and what this machine has."""

from typing import Annotated, Any

import typer

from modelzoo.console import console, print_table

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def register(app: typer.Typer) -> None:
    """Add the catalogue commands."""

    @app.command()
    def families(json: Json = False) -> None:
        """List every registered architecture family."""
        from modelzoo.family import families as registered
        from modelzoo.family import parameter_count

        rows = [
            {
                "family": family.name,
                "group": family.group,
                "task": family.task,
                "parameters": parameter_count(family.build(family.config(), seed=0)),
                "trained": "one shot" if family.fit else "one by one" if family.not_vmappable else "in lock-step",
                "summary": family.summary,
                "paper": str(family.paper),
                "variants": sorted(family.variants),
            }
            for family in registered().values()
        ]
        print_table([_brief(row, json, "summary", "variants") for row in rows], "families", json)

    @app.command()
    def tasks(json: Json = False) -> None:
        """List every task with its trivial baseline."""
        from modelzoo.task import tasks as registered

        rows = [
            {
                "task": task.name,
                "inputs": str(task.inputs),
                "targets": str(task.targets),
                "metric": task.metric,
                "trivial baseline": task.baseline,
                "instances": task.instances or None,
                "offline": task.offline,
                "summary": task.summary,
                "source": task.source,
            }
            for task in registered().values()
        ]
        print_table([_brief(row, json, "source", "offline", "instances") for row in rows], "tasks", json)

    @app.command()
    def papers(json: Json = False) -> None:
        """List the catalogue of papers and what implements each."""
        from modelzoo.papers import catalogue

        rows = catalogue()
        print_table(rows, "papers", json)
        if not json:
            done = sum(bool(row["implemented by"]) for row in rows)
            console.print(f"{done} of {len(rows)} rows are implemented")

    @app.command()
    def doctor(json: Json = False) -> None:
        """Print versions, back end and threads, and name what is missing."""
        from modelzoo.doctor import report

        print_table(report(), "doctor", json)


def _brief(row: dict[str, Any], everything: bool, *left_out: str) -> dict[str, Any]:
    """A row without the columns that only fit into JSON."""
    return {key: value for key, value in row.items() if everything or key not in left_out}
