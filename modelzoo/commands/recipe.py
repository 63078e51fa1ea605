"""`metazoo recipe`: populate every population that a recipe file names."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from modelzoo.console import console, print_json, print_table
from modelzoo.errors import UserError


def read_recipe(file: Path) -> dict[str, dict[str, Any]]:
    """The populations of a recipe by name, each with the keys of a `PopulationConfig`.

    A recipe is a TOML file of tables, one a population; keys above the first table hold for all of them.

    Raises:
        UserError: the file cannot be read, is no TOML, or names no population.
    """
    try:
        content = tomllib.loads(file.read_text())
    except OSError as error:
        raise UserError(f"cannot read recipe {str(file)!r}: {error.strerror}.") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"recipe {str(file)!r} is no TOML: {error}.") from None
    shared = {key: value for key, value in content.items() if not isinstance(value, Mapping)}
    found = {name: {**shared, **table} for name, table in content.items() if isinstance(table, Mapping)}
    if not found:
        raise UserError(f"recipe {str(file)!r} names no population; write a table [NAME] with family and models.")
    return found


def register(app: typer.Typer) -> None:
    """Add `recipe`."""

    @app.command()
    def recipe(
        zoo: Annotated[str, typer.Argument(help="Folder (or s3://…) of the zoo; made if it is not there.")],
        file: Annotated[Path, typer.Argument(help="Recipe, a TOML file; docs/recipes/ holds the standing benchmarks.")],
        models: Annotated[int | None, typer.Option(help="Models of every population, for a trial.")] = None,
        json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    ) -> None:
        """Populate all that a recipe file names: the same file, the same zoo. Run it again to go on after an interruption."""
        from modelzoo.training import PopulationConfig, populate
        from modelzoo.training.config import Plan

        fields = {} if models is None else {"models": models}
        configs = {name: PopulationConfig.read(**{**keys, **fields}) for name, keys in read_recipe(file).items()}
        for config in configs.values():
            Plan.of(config)  # whatever cannot run is refused before anything is trained

        def rows() -> Iterator[dict[str, Any]]:
            for name, config in configs.items():
                population = populate(zoo, config, name, progress=not json)
                table, metric = population.table, f"test_{population.task.metric}"
                scores = table.loc[table["status"] == "ok", metric]
                yield {
                    "population": name, "family": config.family, "task": population.task.name, "models": len(population),
                    "diverged": int((table["status"] == "diverged").sum()), "metric": metric,
                    "median": scores.median(), "min": scores.min(), "max": scores.max(),
                }  # fmt: skip

        summary = list(rows())
        if json:
            print_json(summary)
        else:
            print_table(summary, f"populated {zoo} from {file.name}")
            console.print(f"look at it: metazoo ls {zoo}", highlight=False, markup=False)
