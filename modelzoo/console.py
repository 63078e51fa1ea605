"""How commands print: one Rich console, one table or one JSON document."""

import json as json_module
from collections.abc import Mapping, Sequence
from typing import Any

import rich.console
import rich.markup
import rich.table

console = rich.console.Console()
errors = rich.console.Console(stderr=True)


def plain(value: Any) -> Any:
    """A value as JSON can hold it: NumPy and torch scalars and arrays become Python's own, NaN becomes null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def print_json(value: Any) -> None:
    """Print one JSON document on standard output, uncoloured and unwrapped."""
    print(json_module.dumps(plain(value), indent=2))


def shown(value: Any) -> str:
    """A value in a table cell: floats with four significant digits, sequences joined by commas, None as a dash.

    Brackets are text here, not Rich's markup.
    """
    value = plain(value)
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return rich.markup.escape(str(value))


def print_table(rows: Sequence[Mapping[str, Any]], title: str | None = None, json: bool = False) -> None:
    """Print rows of equal keys as a table, or as a JSON list.

    Args:
        rows: one mapping a row; the first row's keys are the columns.
        title: printed above the table.
        json: print JSON instead, for scripts.
    """
    if json:
        print_json(list(rows))
        return
    table = rich.table.Table(title=rich.markup.escape(title or "") or None, title_justify="left", header_style="bold")
    for index, column in enumerate(rows[0] if rows else ()):
        numeric = all(isinstance(plain(row[column]), int | float | None) for row in rows)
        justify: rich.console.JustifyMethod = "right" if numeric else "left"
        named = index == 0  # what rows are called stays in one piece, to be copied
        table.add_column(rich.markup.escape(column), justify=justify, overflow="fold", no_wrap=named)
    for row in rows:
        table.add_row(*(shown(value) for value in row.values()))
    if rows:
        console.print(table)
    else:
        console.print(f"{title or 'table'}: nothing to show", markup=False, highlight=False)
