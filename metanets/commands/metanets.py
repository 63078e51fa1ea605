"""`metazoo metanets` and `metazoo augmentations`: what there is to train and to compare."""

from typing import Annotated, Any

import typer

from modelzoo.console import print_table


def register(app: typer.Typer) -> None:
    """Add `metanets` and `augmentations`."""

    @app.command()
    def metanets(json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
        """List every registered metanet and baseline, with what its embedding is invariant under."""
        from metanets.baseline import Baseline, baselines
        from metanets.metanet import Metanet
        from metanets.metanet import metanets as registered

        every: list[Metanet | Baseline] = [*registered().values(), *baselines().values()]
        rows: list[dict[str, Any]] = [
            {
                "name": each.name,
                "kind": "baseline" if isinstance(each, Baseline) else "metanet",
                "invariant under": each.equivariance,
                "reads": "one architecture" if each.one_architecture else "any architectures",
                "summary": each.summary,
                "papers": [str(paper) for paper in each.paper],
            }
            for each in every
        ]
        shown = rows if json else [{key: row[key] for key in row if key != "papers"} for row in rows]
        print_table(shown, "metanets and baselines", json)

    @app.command()
    def augmentations(
        json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    ) -> None:
        """List every augmentation of `metazoo train --augment`, with what it keeps and what its strength means."""
        from metanets.training.augmentation import augmentations as registered

        rows = [
            {"name": each.name, "keeps": each.keeps, "strength": each.strength, "meaning": each.meaning, "summary": each.summary}
            for each in registered().values()
        ]  # fmt: skip
        print_table(rows, "augmentations", json)
