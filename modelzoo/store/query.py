"""Filtering the model table with an expression, without letting the expression run code."""

import ast

import pandas as pd

from modelzoo.errors import UnknownNameError, UserError

_ALLOWED = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.UAdd, ast.Invert, ast.BinOp,
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Mod, ast.Pow, ast.BitAnd, ast.BitOr, ast.Compare, ast.Eq, ast.NotEq,
    ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple,
)  # fmt: skip


def select(table: pd.DataFrame, expression: str) -> pd.DataFrame:
    """Rows of the table for which the expression holds.

    Args:
        table: the model table.
        expression: comparisons of columns joined by `and`, `or`, `not`, in pandas' syntax:
            `test_accuracy > 0.9 and family == 'small_cnn'`.

    Raises:
        UserError: the expression cannot be read, does more than compare, or names an unknown column.
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError):
        raise UserError(
            f"query {expression!r} cannot be read; write comparisons such as \"test_accuracy > 0.9 and split == 'test'\".", 2
        ) from None  # fmt: skip
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED):
            raise UserError(
                f"query {expression!r} may only compare columns with values; {type(node).__name__.lower()} is not allowed.", 2
            )  # fmt: skip
        if isinstance(node, ast.Name) and node.id not in table.columns:
            raise UnknownNameError("column", node.id, map(str, table.columns))
    try:
        keep = table.eval(expression.strip(), engine="python")
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"query {expression!r} does not fit the columns' types: {error}.", 2) from None
    if not isinstance(keep, pd.Series) or keep.dtype != bool:
        raise UserError(f"query {expression!r} does not say yes or no for each model; compare columns with values.", 2)
    return table[keep]
