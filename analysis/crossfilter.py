"""Distributions and scatter plots of a model table whose selections are query expressions.

A selection made in a chart becomes an expression of the zoo's query language (`0.9 <= test_accuracy < 0.95`), so that
charts, the command line and a link share one language, and a selection means the same models after the zoo has grown.
"""

import ast
import math
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from analysis.theme import CATEGORICAL, REFERENCE, SEQUENTIAL, figure, translucent
from analysis.weights import Array
from modelzoo.store.query import select

BINS = 24
MOST_CATEGORIES = 20
LABEL_ROOM = 27  # characters that fit below a histogram side by side
MOST_POINTS = 10_000  # more make the browser slow
SYMBOLS = ("circle", "diamond", "square", "cross")
HYPERPARAMETERS = ("learning_rate", "weight_decay", "data_fraction", "init_scale")
QUIET = {"id", "seed", "instance", "steps", "wall_time", "model", "test_loss"}  # rarely what one looks at first


def kept(table: pd.DataFrame, expressions: Sequence[str]) -> pd.DataFrame:
    """Rows for which every expression holds; raises `UserError` for one that cannot be read."""
    for expression in expressions:
        table = select(table, expression)
    return table


def names_in(expression: str) -> set[str]:
    """Columns that an expression mentions; empty when it cannot be read."""
    try:
        return {node.id for node in ast.walk(ast.parse(expression.strip(), mode="eval")) if isinstance(node, ast.Name)}
    except (SyntaxError, ValueError):
        return set()


def replaced(expressions: Sequence[str], columns: set[str], new: Sequence[str]) -> list[str]:
    """The expressions with those about exactly one of `columns` exchanged for `new`."""
    stay = [text for text in expressions if not (len(names_in(text)) == 1 and names_in(text) <= columns)]
    return stay + [text for text in new if text not in stay]


def is_category(values: pd.Series) -> bool:
    """Whether a column is drawn with one bar a value: text, truth values, or few different integers."""
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return True
    return pd.api.types.is_integer_dtype(values) and values.nunique() <= MOST_CATEGORIES


def chartable(table: pd.DataFrame) -> list[str]:
    """Columns that take more than one value, the most telling first: metrics, hyper-parameters, then the rest."""

    def rank(column: str) -> tuple[int, int]:
        if column.startswith("test_") and column not in QUIET:
            return 0, 0
        if column in HYPERPARAMETERS:
            return 1, HYPERPARAMETERS.index(column)
        return (3 if column in QUIET else 2), 0

    varied = [str(column) for column in table.columns if table[column].nunique(dropna=True) > 1]
    return sorted(varied, key=rank)


def number(value: float) -> str:
    """A number as short as six significant digits allow, readable by the query language."""
    return repr(float(f"{value:.6g}")).removesuffix(".0") if abs(value) < 1e15 else repr(float(value))


def between(column: str, low: float, high: float, closed: bool = False) -> str:
    """The expression for a range, exact, with the upper end included when `closed`."""
    ends = [number(end) if float(number(end)) == end else repr(float(end)) for end in (low, high)]
    return f"{ends[0]} <= {column} {'<=' if closed else '<'} {ends[1]}"


def bin_edges(values: Array, bins: int = BINS) -> tuple[Array, bool]:
    """Edges at round numbers, `[bin + 1]`, and whether they are spaced logarithmically.

    Args:
        values: finite numbers, at least one.
        bins: about how many bins.
    """
    low, high = float(values.min()), float(values.max())
    positive = values[values > 0]
    if low == 0 and positive.size and high / positive.min() > 100:  # zero has no logarithm: a bin of its own
        return np.concatenate([[0.0], bin_edges(positive, bins - 1)[0]]), True
    if low > 0 and high / low > 100:
        exponents = np.linspace(np.floor(np.log10(low) * 4) / 4, np.ceil(np.log10(high) * 4) / 4, bins + 1)
        edges = np.unique([float(f"{10**exponent:.3g}") for exponent in exponents])
        edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
        return edges, True
    if high == low:
        return np.array([low, low + (abs(low) or 1.0) * 1e-3]), False
    rough = (high - low) / bins
    unit = 10 ** np.floor(np.log10(rough))
    step = min((factor * unit for factor in (1, 2, 2.5, 5, 10)), key=lambda size: abs(size - rough))
    first, last = np.floor(low / step), np.ceil(high / step)
    edges = np.array([float(f"{place * step:.12g}") for place in np.arange(first, last + 1)])
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    return edges, False


@dataclass(frozen=True)
class Distribution:
    """How many models fall into each bin of a column.

    Args:
        column: its name.
        values: for a category, the value of every bin; empty for numbers.
        edges: for numbers, `[bin + 1]`; empty for a category.
        logarithmic: whether the edges are spaced logarithmically.
        total: `[bin]` models of the whole table.
        selected: `[bin]` models of the selection.
        missing: models without a value, or in none of the bins.
    """

    column: str
    values: tuple[Any, ...]
    edges: Array
    logarithmic: bool
    total: NDArray[np.integer[Any]]
    selected: NDArray[np.integer[Any]]
    missing: int

    def labels(self) -> list[str]:
        """What each bin holds, in words."""
        if self.values:
            return [str(value) or "(empty)" for value in self.values]
        return [f"{number(low)} to {number(high)}" for low, high in zip(self.edges[:-1], self.edges[1:], strict=True)]

    def expression(self, bins: Sequence[int]) -> str:
        """The query that selects these bins; numbers give one range from the first to the last of them."""
        chosen = sorted(place for place in set(bins) if 0 <= place < len(self.total))
        if self.values:
            values = [self.values[place] for place in chosen]
            return f"{self.column} == {values[0]!r}" if len(values) == 1 else f"{self.column} in {values!r}"
        last = chosen[-1] + 1
        return between(self.column, self.edges[chosen[0]], self.edges[last], closed=last == len(self.total))

    def to_frame(self) -> pd.DataFrame:
        """One row a bin."""
        return pd.DataFrame({self.column: self.labels(), "total": self.total, "selected": self.selected})

    def plot(self) -> go.Figure:
        """Bars: the whole table in grey, the selection in front; categories answer to clicks, ranges of numbers to boxes."""
        places = np.arange(len(self.total))
        drawing = figure(height=190, title=self.column)
        hover = [f"{label}: {part} of {whole}" for label, part, whole in zip(self.labels(), self.selected, self.total, strict=True)]  # fmt: skip
        common = {"x": places, "hovertext": hover, "hoverinfo": "text", "width": 0.9}
        full = {"marker": {"opacity": 1}}  # the browser's own dimming would hide what the query says
        grey = translucent(REFERENCE, 0.38)
        drawing.add_bar(y=self.total, name="all", marker_color=grey, selected=full, unselected=full, **common)
        drawing.add_bar(y=self.selected, name="selected", marker_color=CATEGORICAL[0], selected=full, unselected=full, **common)  # fmt: skip
        drawing.update_layout(barmode="overlay", showlegend=False, margin={"l": 36, "r": 8, "t": 30, "b": 24}, dragmode=False if self.values else "select", selectdirection="h")  # fmt: skip
        drawing.update_yaxes(nticks=4, fixedrange=True)
        drawing.update_xaxes(fixedrange=True, showgrid=False, **self._ticks())
        return drawing

    def _ticks(self) -> dict[str, Any]:
        if self.values:
            step = max(1, len(self.values) // 10)
            labels = self.labels()[::step]
            room = LABEL_ROOM // len(labels)
            if room >= 6 or max(map(len, labels)) <= room:
                labels, angle = ["<br>".join(wrap(label, room, max_lines=3, placeholder="…")) for label in labels], 0
            else:  # too many words to stand side by side
                labels, angle = [label if len(label) <= 12 else label[:11] + "…" for label in labels], 90
            return {"tickvals": list(range(0, len(self.values), step)), "ticktext": labels, "tickangle": angle}
        if self.logarithmic:
            skipped = int(self.edges[0] == 0)
            exponents = np.log10(self.edges[skipped:])
            marks = 10.0 ** np.arange(np.ceil(exponents[0]), np.floor(exponents[-1]) + 1)
            marks = marks[:: max(1, len(marks) // 5)]
            places = np.interp(np.log10(marks), exponents, np.arange(len(exponents)) + skipped) - 0.5
            return {"tickvals": places.tolist(), "ticktext": [f"{mark:.0e}".replace("e-0", "e-").replace("e+0", "e") if not 0.01 <= mark <= 1000 else f"{mark:g}" for mark in marks]}  # fmt: skip
        for most in (6, 5, 4, 3, 2):
            shown = range(0, len(self.edges), math.ceil(len(self.total) / (most - 1)))
            if sum(len(number(self.edges[place])) + 2 for place in shown) <= LABEL_ROOM + 2:
                break
        return {
            "tickvals": [place - 0.5 for place in shown],
            "ticktext": [number(self.edges[place]) for place in shown],
            "tickangle": 0,
        }


def distribution(table: pd.DataFrame, selected: pd.DataFrame, column: str) -> Distribution:
    """Count a column's values in the whole table and in a selection of its rows."""
    whole, part = table[column], selected[column]
    if is_category(whole):
        counts = whole.dropna().value_counts()
        numeric = pd.api.types.is_numeric_dtype(whole)
        values = sorted(counts.index[:MOST_CATEGORIES], key=None if numeric else str)
        plain = tuple(value.item() if hasattr(value, "item") else value for value in values)
        total = counts.reindex(values).to_numpy().astype(np.int64)
        inside = part.value_counts().reindex(values, fill_value=0).to_numpy().astype(np.int64)
        return Distribution(column, plain, np.zeros(0), False, total, inside, len(whole) - int(total.sum()))
    numbers = whole.to_numpy(np.float64)
    finite = numbers[np.isfinite(numbers)]
    if not finite.size:
        return Distribution(column, (), np.array([0.0, 1.0]), False, np.zeros(1, np.int64), np.zeros(1, np.int64), len(whole))  # fmt: skip
    edges, logarithmic = bin_edges(finite)
    chosen = part.to_numpy(np.float64)
    total = np.histogram(finite, edges)[0]
    inside = np.histogram(chosen[np.isfinite(chosen)], edges)[0]
    return Distribution(column, (), edges, logarithmic, total, inside, len(whole) - len(finite))


@dataclass(frozen=True)
class Cloud:
    """Two columns against each other, coloured by a third.

    Args:
        frame: `x`, `y`, `colour`, `selected`, indexed by model; a sample when there are many.
        x, y, colour: names of the columns, colour None for none.
        of: models before sampling.
    """

    frame: pd.DataFrame
    x: str
    y: str
    colour: str | None
    of: int

    def to_frame(self) -> pd.DataFrame:
        """The points that are drawn."""
        return self.frame

    def expressions(self, x: tuple[float, float], y: tuple[float, float]) -> list[str]:
        """The queries that select a box, its corners rounded to six digits."""

        def rounded(column: str, ends: tuple[float, float]) -> str:
            low, high = (float(number(end)) for end in sorted(ends))
            return between(column, low, high, closed=True)

        return [rounded(self.x, x), rounded(self.y, y)]

    def plot(self, height: int = 430) -> go.Figure:
        """Points; what is not selected is grey. Categories get a legend, numbers a scale."""
        drawing = figure(height=height)
        front, back = self.frame[self.frame["selected"]], self.frame[~self.frame["selected"]]
        full = {"marker": {"opacity": 0.9}}
        common = {"mode": "markers", "selected": full, "unselected": full}

        def add(part: pd.DataFrame, name: str, marker: dict[str, Any]) -> None:
            hover = "%{customdata}<br>" + f"{self.x} %{{x:.4g}}, {self.y} %{{y:.4g}}<extra>{name}</extra>"
            drawing.add_trace(
                go.Scattergl(
                    x=part["x"], y=part["y"], customdata=part.index, name=name, hovertemplate=hover,
                    marker={"size": 7, "opacity": 0.9, "line": {"width": 0.5, "color": "#FFFFFF"}} | marker, **common,
                )
            )  # fmt: skip

        if len(back):
            add(back, "not selected", {"color": translucent(REFERENCE, 0.35), "size": 5})
        if self.colour is None:
            add(front, "selected", {"color": CATEGORICAL[0]})
        elif is_category(self.frame["colour"]):
            values = sorted(self.frame["colour"].dropna().unique(), key=lambda value: (isinstance(value, str), value))
            for place, value in enumerate(values):
                colour = CATEGORICAL[place % len(CATEGORICAL)]
                add(front[front["colour"] == value], str(value) or "(empty)", {"color": colour, "symbol": SYMBOLS[place // len(CATEGORICAL) % len(SYMBOLS)]})  # fmt: skip
        else:
            scale = {"thickness": 10, "outlinewidth": 0, "title": {"text": self.colour, "side": "right"}}
            add(front, "selected", {"color": front["colour"], "colorscale": SEQUENTIAL, "colorbar": scale, "showscale": True})  # fmt: skip
        drawing.update_layout(
            dragmode="select",
            showlegend=self.colour is not None and is_category(self.frame["colour"]),
        )
        drawing.update_xaxes(title_text=self.x, **_axis(self.frame["x"]))
        drawing.update_yaxes(title_text=self.y, **_axis(self.frame["y"]))
        return drawing


def _axis(values: pd.Series) -> dict[str, Any]:
    if not pd.api.types.is_numeric_dtype(values):
        return {}
    known = values[np.isfinite(values.to_numpy(np.float64))]
    wide = len(known) and known.min() > 0 and known.max() > 100 * known.min()
    return {"type": "log", "exponentformat": "power", "dtick": 1} if wide else {}


def cloud(
    table: pd.DataFrame, selected: pd.DataFrame, x: str, y: str, colour: str | None = None, most: int = MOST_POINTS
) -> Cloud:
    """Points for a scatter plot of a table with a selection of its rows.

    Args:
        table: the whole model table, indexed by model.
        selected: rows of it.
        x, y: numeric columns.
        colour: any column.
        most: points at most; a random sample with a fixed seed beyond that.
    """
    columns = {"x": table[x], "y": table[y], "colour": table[colour] if colour else ""}
    frame = pd.DataFrame(columns, index=table.index)
    frame["selected"] = table.index.isin(selected.index)
    frame = frame.dropna(subset=["x", "y"])
    return Cloud(frame.sample(most, random_state=0).sort_index() if len(frame) > most else frame, x, y, colour, len(frame))  # fmt: skip
