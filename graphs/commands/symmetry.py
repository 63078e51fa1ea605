"""`metazoo symmetry`: the parameter symmetry group of a family, of a model of a zoo, or of any torch module."""

from typing import Annotated

import typer

from modelzoo.console import console, print_json


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def symmetry(
        what: Annotated[
            str, typer.Argument(help="package.module:callable, a family (or family.variant), or the folder of a zoo.")
        ],
        model: Annotated[str | None, typer.Argument(help="POPULATION/ID, when the first argument is a zoo.")] = None,
        input: Annotated[
            list[str] | None,
            typer.Option(
                help="Shape of an input of the callable, once for each: 2x3, int:4x8, int100:4x8, complex:2x3."
            ),
        ] = None,
        tiny: Annotated[bool, typer.Option("--tiny", help="Take the family's smallest member.")] = False,
        verify: Annotated[bool, typer.Option(help="Check the group numerically in double precision.")] = True,
        complete: Annotated[
            bool, typer.Option("--complete", help="Count the continuous symmetries the group does not explain.")
        ] = False,
        strict: Annotated[bool, typer.Option("--strict", help="Fail on an operator that has no rule.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    ) -> None:
        """Find every parameter symmetry of a module, and check it."""
        import graphs
        from graphs.subjects import subject

        found = subject(what, model, input or (), tiny)
        group = graphs.symmetry(found.module, found.inputs, verify=verify, strict=strict)
        # a trained model is measured where it is, a fresh one at a generic point near by
        report = graphs.completeness(group, found.module, found.inputs, generic=model is None) if complete else None
        if json:
            verdict = None if group.verdict is None else {**vars(group.verdict), "sentence": group.verdict.sentence}
            print_json({
                "subject": found.name, "module": group.program.module_name, "ops": len(group.program.ops),
                "factors": group.table(), "dimension": group.dimension, "log order": group.log_order,
                "unknown ops": [{"operator": op, "module": path} for op, path in group.unknown_ops],
                "notes": list(group.notes), "verdict": verdict,
                "completeness": None if report is None else {
                    **{key: value for key, value in vars(report.functional).items() if key != "spectrum"},
                    "dimension": report.dimension, "orbit": report.orbit, "hidden": report.hidden},
            })  # fmt: skip
            return
        console.print(group)
        for op, path in group.unknown_ops:
            console.print(
                f"no rule for {op} in {path or 'the root module'}: what it touches stays fixed", highlight=False
            )
        for note in group.notes:
            console.print(note, highlight=False)
        console.print(
            "not verified" if group.verdict is None else f"verified: {group.verdict.sentence}", highlight=False
        )
        if report is not None:
            console.print(f"complete: {report.sentence}" if report.hidden == 0 else report.sentence, highlight=False)
