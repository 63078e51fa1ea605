"""`metazoo analyze`: run any registered analysis on a family, a model or a population."""

from pathlib import Path
from typing import Annotated, Any

import typer

from modelzoo.console import console, print_json, print_table
from modelzoo.errors import UserError
from modelzoo.key_values import read_key_values


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def analyze(
        name: Annotated[str | None, typer.Argument(help="An analysis; without it all are listed.")] = None,
        what: Annotated[
            str | None,
            typer.Argument(help="A family, package.module:callable, or the folder of a zoo."),
        ] = None,
        which: Annotated[
            str | None, typer.Argument(help="POPULATION/ID for one model of a zoo, POPULATION for a population.")
        ] = None,
        set_: Annotated[list[str] | None, typer.Option("--set", help="Option, key=value; repeatable.")] = None,
        input: Annotated[
            list[str] | None, typer.Option(help="Shape of an input of a callable, once for each: 2x3, int:4x8.")
        ] = None,
        tiny: Annotated[bool, typer.Option("--tiny", help="Take the family's smallest member.")] = False,
        plot: Annotated[Path | None, typer.Option(help="Write the figure to this file (.html).")] = None,
        csv: Annotated[Path | None, typer.Option(help="Write the table to this file.")] = None,
        json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    ) -> None:
        """Run an analysis and print its table; without a name, list all analyses."""
        from analysis.analysis import analyses, find

        if name is None:
            rows = [
                {"analysis": each.name, "of": each.of, "summary": each.summary,
                 "options": ", ".join(f"{key}={field.default!r}" for key, field in each.options.model_fields.items())}
                for each in analyses().values()
            ]  # fmt: skip
            print_table(rows, "analyses", json)
            return
        chosen = find(name)
        fields = read_key_values(set_)
        chosen.configure(fields)  # before anything slow
        check_folder(csv)
        check_figure(plot)
        result = chosen.run(_subject(chosen.name, chosen.of, what, which, input or (), tiny), fields)
        frame = result.to_frame()
        if plot is not None:
            result.plot().write_html(plot)
        if csv is not None:
            frame.to_csv(csv, index=False)
        records = [dict(zip(frame.columns.astype(str), row, strict=True)) for row in frame.itertuples(index=False)]
        sentence = getattr(result, "sentence", None)
        if json:
            print_json({"analysis": name, "sentence": sentence, "rows": records})
            return
        print_table(records, name)
        if sentence:
            console.print(sentence, highlight=False, markup=False)
        for path in (plot, csv):
            if path is not None:
                console.print(f"wrote {path}", highlight=False)


def check_folder(path: Path | None) -> None:
    """Raise `UserError` where a file has no folder to be written to."""
    if path is not None and not path.resolve().parent.is_dir():
        raise UserError(f"folder {str(path.parent)!r} is not there; make it, or write the file elsewhere.", 2)


def check_figure(path: Path | None) -> None:
    """Raise `UserError` where a figure cannot be written to a file."""
    check_folder(path)
    if path is not None and path.suffix != ".html":
        raise UserError(f"cannot write a figure to {path.name!r}; give a name that ends in .html.", 2)


def _subject(name: str, of: str, what: str | None, which: str | None, inputs: Any, tiny: bool) -> Any:
    """What the analysis looks at; raises `UserError` when it is missing, superfluous or not there."""
    if of == "nothing":
        if what is not None:
            raise UserError(f"analysis {name!r} takes no subject; leave {what!r} out.", 2)
        return None
    if what is None:
        wanted = "a family, a callable or a model of a zoo" if of == "module" else "ZOO POPULATION"
        raise UserError(f"analysis {name!r} looks at a {of}; name {wanted} behind it.", 2)
    if of == "module":
        from graphs.subjects import subject

        return subject(what, which, inputs, tiny)
    from modelzoo.store import Zoo

    zoo = Zoo.open(what)
    if which is None:
        names = zoo.names()
        if len(names) != 1:
            raise UserError(f"zoo {what!r} has {len(names)} populations; name one behind it: {', '.join(names)}.", 2)
        which = names[0]
    if tiny or inputs:
        raise UserError("--tiny and --input are for modules; a population has its own shapes.", 2)
    return zoo[which]
