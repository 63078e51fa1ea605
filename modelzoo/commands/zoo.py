"""`metazoo ls`, `show`, `query`, `verify`, `history`, `rm` and `cp`: a zoo as a table and as a database."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelzoo.console import console, print_json, print_table
from modelzoo.errors import UserError

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
ZooPath = Annotated[str, typer.Argument(help="Folder (or s3://…) of the zoo.")]
At = Annotated[str | None, typer.Option(help="Snapshot id or tag to read the zoo as it was.")]
SHOWN_ROWS = 40

if TYPE_CHECKING:
    import pandas as pd


def register(app: typer.Typer) -> None:
    """Add the commands on zoos."""

    @app.command()
    def ls(zoo: ZooPath, at: At = None, json: Json = False) -> None:
        """List the populations of a zoo."""
        from modelzoo.store import Zoo

        rows = []
        for population in Zoo.open(zoo, at=at):
            table, info = population.table, population.info
            metric = next((str(name) for name in table if name != "test_loss" and str(name).startswith("test_")), None)
            rows.append({
                "population": population.name,
                "family": info.family,
                "task": info.task,
                "models": len(table),
                "diverged": int((table["status"] == "diverged").sum()) if len(table) else 0,
                "metric": metric,
                "median": table[metric].median() if metric else None,
                "checkpoints": len(info.checkpoint_steps),
                "created": info.created if json else info.created[:10],
            })  # fmt: skip
        print_table(rows, f"zoo {zoo}", json)

    @app.command()
    def show(
        zoo: ZooPath,
        what: Annotated[str, typer.Argument(help="POPULATION, or POPULATION/ID for one model.")],
        at: At = None,
        json: Json = False,
    ) -> None:
        """Show a population, or one model of it."""
        from modelzoo.store import Zoo

        name, _, model = what.partition("/")
        population = Zoo.open(zoo, at=at)[name]
        if model:
            _show_model(population, model, json)
        else:
            _show_population(population, json)

    @app.command()
    def query(
        zoo: ZooPath,
        expression: Annotated[str, typer.Argument(help="e.g. \"test_accuracy > 0.9 and family == 'small_cnn'\"")],
        limit: Annotated[int, typer.Option(help="Rows shown at most.")] = SHOWN_ROWS,
        at: At = None,
        json: Json = False,
    ) -> None:
        """List the models for which an expression over the model table holds."""
        from modelzoo.store import Zoo

        found = Zoo.open(zoo, at=at).query(expression)
        part = found.head(len(found) if json else limit).dropna(axis=1, how="all").reset_index()
        rows: list[dict[str, Any]] = [
            dict(zip(part.columns, values, strict=True)) for values in part.itertuples(index=False)
        ]
        shown = [name for name in part.columns if json or _tells_apart(part, name, expression)]
        print_table([{name: row[name] for name in shown} for row in rows], f"{len(found)} models", json)
        if not json and len(found) > limit:
            console.print(f"… {len(found) - limit} more; --limit shows more, --json all")

    @app.command()
    def verify(zoo: ZooPath, json: Json = False) -> None:
        """Read everything and check it; exits with 1 when something is damaged."""
        from modelzoo.store import Zoo

        problems = Zoo.open(zoo).verify()
        rows = [
            {"population": p.population, "array": p.array, "models": list(p.models), "problem": p.message}
            for p in problems
        ]
        if json or rows:
            print_table(rows, "problems", json)
        else:
            console.print(f"{zoo}: everything is readable and in order", highlight=False, markup=False)
        if rows:
            raise typer.Exit(1)

    @app.command()
    def history(zoo: ZooPath, json: Json = False) -> None:
        """List the commits of a zoo, newest first."""
        from modelzoo.store import Zoo

        versions = Zoo.open(zoo).history()
        rows = [
            {"snapshot": v.id, "time": v.time.isoformat(timespec="seconds"), "message": v.message} for v in versions
        ]
        print_table(rows, f"history of {zoo}", json)

    @app.command()
    def rm(
        zoo: ZooPath,
        population: Annotated[str, typer.Argument()],
        where: Annotated[str | None, typer.Option(help="Remove only the models for which this holds.")] = None,
        yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    ) -> None:
        """Remove a population, or some of its models; the history keeps them."""
        from modelzoo.store import Zoo

        store = Zoo.open(zoo, writable=True)
        target = store[population]
        ids = target.query(where).index if where else target.table.index
        if where and not len(ids):
            raise UserError(f"no model of {population!r} fulfils {where!r}; nothing was removed.")
        what = f"{len(ids)} models of {population!r}" if where else f"population {population!r} with {len(ids)} models"
        if not yes and not typer.confirm(f"remove {what}?"):
            raise UserError("nothing was removed.")
        if where:
            target.delete_models(ids)
        else:
            store.delete(population)
        text = f"removed {what}; metazoo history {zoo} lists the snapshots that still have it"
        console.print(text, highlight=False, markup=False)

    @app.command()
    def cp(
        zoo: ZooPath,
        population: Annotated[str, typer.Argument()],
        into: Annotated[str, typer.Argument(help="Zoo to copy to; made if it is not there.")],
        name: Annotated[str | None, typer.Option(help="Name of the copy.")] = None,
    ) -> None:
        """Copy a population, bit for bit."""
        from modelzoo.store import Zoo

        source = Zoo.open(zoo)
        source[population]  # a wrong name must not leave an empty zoo behind
        copy = source.copy(population, Zoo.open_or_create(into), name)
        console.print(f"copied {len(copy)} models to {into} as {copy.name}", highlight=False, markup=False)


def _tells_apart(table: "pd.DataFrame", column: str, expression: str) -> bool:
    """Whether a column belongs in a narrow table: the model, what was asked for, and what differs between models."""
    if column in {"population", "id", "parent", "source", "wall_time", "instance", "seed"}:
        return column in expression
    return column in {"model", "status"} or column in expression or table[column].nunique(dropna=False) > 1


def _show_population(population: Any, json: bool) -> None:
    info, table = population.info, population.table
    numbers = table.select_dtypes("number")
    described = numbers.describe().T.reset_index(names="column") if len(numbers.columns) else numbers
    if json:
        print_json({**info.model_dump(mode="json"), "models": len(table), "columns": described.to_dict("records")})
        return
    facts = {
        "family": info.family, "paper": info.paper, "task": info.task, "models": len(table), "config": info.family_config,
        "recipe": info.training.get("recipe"), "checkpoints at": info.checkpoint_steps, "created": info.created,
        "parameters": sum(_size(tensor.shape) for tensor in info.parameters),
    }  # fmt: skip
    print_table([{"": key, "value": str(value)} for key, value in facts.items()], f"population {population.name}")
    shown = described.reindex(columns=["column", "mean", "std", "min", "50%", "max"])
    print_table(shown.to_dict("records"), "columns")


def _show_model(population: Any, model: str, json: bool) -> None:
    try:
        row = int(population.positions([int(model)])[0])
    except ValueError:
        raise UserError(f"model {model!r} is not a number; write POPULATION/ID.", 2) from None
    columns = population.table.reset_index().iloc[row].to_dict()
    tensors = [
        {"tensor": name, "shape": " × ".join(map(str, value.shape[1:])) or "scalar", "norm": value.norm().item(),
         "mean": value.abs().mean().item() if value.is_complex() else value.float().mean().item()}
        for name, value in population.stacked(slice(row, row + 1), kind="state").items()
    ]  # fmt: skip
    if json:
        print_json({"columns": columns, "tensors": tensors})
    else:
        print_table(
            [{"column": key, "value": value} for key, value in columns.items()], f"model {population.name}/{model}"
        )
        print_table(tensors, "tensors")


def _size(shape: tuple[int, ...]) -> int:
    from math import prod

    return prod(shape)
