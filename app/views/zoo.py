"""The Zoo page: the model table, its distributions, and selections that every chart follows."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from analysis.crossfilter import (
    Cloud,
    Distribution,
    chartable,
    cloud,
    distribution,
    is_category,
    kept,
    names_in,
    replaced,
)
from app import data
from app.frame import LINKED, PLOTLY, framed, link_to_model, need_zoo
from modelzoo.errors import UserError

FILTER = "filter"
SHOWN_DISTRIBUTIONS = 6
TELLING = ("learning_rate", "weight_decay", "label", "train_loss")  # what one draws a score against first


@framed("Zoo")
def page() -> None:
    """Choose models by population, by expression or by drawing on the charts."""
    path = need_zoo()
    if path is None:
        return
    snapshot = data.opened(path).snapshot_id
    everything = data.table(path, snapshot)
    st.title("Zoo")
    if everything.empty:
        st.info(
            f"This zoo is empty. Fill it with `metazoo populate {path} siren --models 200`.", icon=":material/info:"
        )
        return
    scope = populations(everything)
    absorb_selections(scope)
    expressions = filters(scope)
    selected = kept_or_said(scope, expressions)
    st.caption(f"**{len(selected):,}** of {len(scope):,} models selected · {scope['population'].nunique()} populations · {scope['family'].nunique()} families")  # fmt: skip
    chosen = chart_controls(scope, selected)
    draw(scope, selected, expressions, chosen)
    model_table(scope, selected, chosen["columns"])
    show_history(path, snapshot)


def populations(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the chosen populations; none chosen means all."""
    names = sorted(table["population"].unique())
    chosen = st.pills(
        "Populations", names, selection_mode="multi", key="populations", **LINKED,
        help="None chosen: all of them.",
    )  # fmt: skip
    return table[table["population"].isin(chosen)] if chosen else table


def filters(table: pd.DataFrame) -> list[str]:
    """The expressions in force: typed, or made by drawing on a chart; each can be taken away again."""
    metric = next((name for name in chartable(table) if name.startswith("test_")), None)
    offers = [f"{metric} > {table[metric].median():.3g}"] if metric else []
    offers += [f"split == {value!r}" for value in sorted(table["split"].unique())] if "split" in table else []
    return st.multiselect(
        "Filter", offers, key=FILTER, accept_new_options=True, **LINKED,
        placeholder="type an expression such as  test_accuracy > 0.9 and split == 'test'  or draw on a chart",
        help="Every expression must hold. Comparisons of columns, joined by and, or, not; the same language as metazoo query.",
    )  # fmt: skip


def kept_or_said(table: pd.DataFrame, expressions: Sequence[str]) -> pd.DataFrame:
    """The rows for which every readable expression holds; an unreadable one is named and left out."""
    for expression in expressions:
        try:
            table = kept(table, [expression])
        except UserError as error:
            st.error(str(error), icon=":material/error:")
    return table


def chart_key(columns: Sequence[str], expressions: Sequence[str]) -> str:
    """Key of a chart: a new selection in it makes it a new chart, so that no stale box stays drawn."""
    own = [text for text in expressions if names_in(text) and names_in(text) <= set(columns)]
    return "chart:" + ",".join(columns) + ":" + " and ".join(own)


def absorb_selections(table: pd.DataFrame) -> None:
    """Turn what was drawn on a chart since the last run into expressions."""
    expressions = list(st.session_state.get(FILTER, []))
    for columns in st.session_state.get("charts drawn", ()):
        drawn = st.session_state.get(chart_key(columns, expressions))
        selection = (drawn or {}).get("selection", {})
        new = read_selection(table, columns, selection)
        if new:
            gone = set(new) & set(expressions)
            st.session_state[FILTER] = replaced(expressions, set(columns), [text for text in new if text not in gone])
            return


def read_selection(table: pd.DataFrame, columns: Sequence[str], selection: Any) -> list[str]:
    """The expressions that a selection in the chart of these columns stands for."""
    if len(columns) == 1 and columns[0] in table:
        bins = {round(point["x"]) for point in selection.get("points", [])}
        return [distribution(table, table, columns[0]).expression(sorted(bins))] if bins else []
    boxes = selection.get("box", [])
    if len(columns) == 2 and boxes and set(columns) <= set(table):
        return cloud(table, table, columns[0], columns[1]).expressions(boxes[-1]["x"], boxes[-1]["y"])
    return []


def chart_controls(table: pd.DataFrame, selected: pd.DataFrame) -> dict[str, Any]:
    """Which columns are drawn and shown; what is left open is chosen automatically, a score that the selection has first."""
    varied = chartable(table)
    numeric = [name for name in varied if pd.api.types.is_numeric_dtype(table[name])]
    columns = [str(name) for name in table.columns]
    with st.popover("Charts and columns", icon=":material/tune:"):
        x = st.selectbox("Horizontal", columns, index=None, key="x", placeholder="automatic", **LINKED)
        y = st.selectbox("Vertical", columns, index=None, key="y", placeholder="automatic", **LINKED)
        colour = st.selectbox("Colour", columns, index=None, key="colour", placeholder="automatic", **LINKED)
        bars = st.multiselect("Distributions", columns, key="distributions", placeholder="automatic", **LINKED)
        shown = st.multiselect("Columns of the table", columns, key="columns", placeholder="all that vary", **LINKED)
    scores = [name for name in numeric if name.startswith("test_")]
    scores.sort(key=lambda name: not selected[name].notna().any())
    vertical = y or next(iter(scores + numeric), None)
    measured = table if vertical is None else table[table[vertical].notna()]
    telling = [name for name in TELLING if name in numeric and name != vertical and measured[name].nunique() > 1]
    return {
        "x": x or next(iter(telling), numeric[0] if numeric else None),
        "y": vertical,
        "colour": colour or next((name for name in varied if name in {"label", "population"}), None),
        "bars": bars or varied[:SHOWN_DISTRIBUTIONS],
        "columns": shown or varied,
    }


def draw(table: pd.DataFrame, selected: pd.DataFrame, expressions: Sequence[str], chosen: dict[str, Any]) -> None:
    """The scatter plot and the distributions; grey is everything, colour is the selection."""
    drawn: list[tuple[str, ...]] = []
    left, right = st.columns([5, 7], gap="medium")
    if chosen["x"] and chosen["y"]:
        with left:
            drawn.append((chosen["x"], chosen["y"]))
            show_cloud(
                cloud(table, selected, chosen["x"], chosen["y"], chosen["colour"]), chart_key(drawn[-1], expressions)
            )
    with right:
        grid = st.columns(3, gap="small")
        for place, column in enumerate(chosen["bars"]):
            drawn.append((column,))
            with grid[place % 3]:
                show_distribution(distribution(table, selected, column), chart_key((column,), expressions))
    st.session_state["charts drawn"] = drawn


def show_cloud(points: Cloud, key: str) -> None:
    """A scatter plot: a box selects."""
    st.plotly_chart(points.plot(), key=key, theme=None, config=PLOTLY, on_select="rerun", selection_mode="box")
    note = f"A random sample of {len(points.frame):,} of {points.of:,} models is drawn; selections count all. " if len(points.frame) < points.of else ""  # fmt: skip
    st.caption(f"{note}Grey: not selected. Draw a box to select, here or over a histogram; click a category.")


def show_distribution(counts: Distribution, key: str) -> None:
    """A histogram: a box selects a range of numbers, a click a category (with shift one more)."""
    st.plotly_chart(counts.plot(), key=key, theme=None, config=PLOTLY, on_select="rerun", selection_mode="points" if counts.values else "box")  # fmt: skip


def model_table(table: pd.DataFrame, selected: pd.DataFrame, columns: Sequence[str]) -> None:
    """The selected models; choosing a row offers its page."""
    numbers = {
        name: st.column_config.NumberColumn(format="%.4g")
        for name in columns
        if pd.api.types.is_float_dtype(table[name]) and not is_category(table[name])
    }
    event = st.dataframe(
        selected[[name for name in columns if name in selected]], key="models", on_select="rerun",
        selection_mode="single-row", column_config=numbers, height=330,
    )  # fmt: skip
    rows = event["selection"]["rows"]
    if rows and rows[0] < len(selected):
        link_to_model(str(selected.index[rows[0]]))
    elif len(selected) == 1:
        link_to_model(str(selected.index[0]))
    else:
        st.caption("Choose a row to open its model.")


def show_history(path: str, snapshot: str) -> None:
    """Every commit of the zoo."""
    with st.expander("History of snapshots", icon=":material/history:"):
        versions = data.history(path, snapshot)
        frame = pd.DataFrame(
            [{"time": entry.time, "message": entry.message, "snapshot": entry.id} for entry in versions]
        )
        st.dataframe(frame, hide_index=True, column_config={"time": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm:ss")})  # fmt: skip


if __name__ == "__main__":  # Streamlit runs a page as a script
    page()
