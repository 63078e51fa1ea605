"""The Metanet page: the runs trained on the zoo, their embeddings, and their predictions beside the truth."""

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from analysis.embedding import METHODS
from analysis.learning_curves import LearningCurves
from analysis.predictions import SPLITS, model_names, run_metrics, run_table
from app import data
from app.frame import LINKED, PLOTLY, framed, link_to_model, number_columns
from app.settings import runs_path, zoo_path
from metanets.runs import Run
from modelzoo.errors import UnknownNameError

TELLING = ("target", "label", "test_accuracy", "prediction")  # what one colours by first


@framed("Metanet")
def page() -> None:
    """Choose a run, look at its embeddings and predictions."""
    st.title("Metanet")
    folder = runs_path()
    found = data.runs(str(folder)) if folder is not None and folder.is_dir() else []
    if not found or folder is None:
        where = f"There is no finished run in `{folder}`." if folder else "The app was started without a zoo or runs."
        st.info(f"{where} Make one with `metazoo train` and name its folder with `metazoo app --runs FOLDER`.", icon=":material/info:")  # fmt: skip
        return
    left, right = st.columns([3, 2], gap="medium", vertical_alignment="bottom")
    with left:
        run = choose(folder, found)
    with right:
        split = choose_split(run)
    record = run.record
    st.caption(
        f"**{record.metanet}** predicts **{record.target}** from the weights of {', '.join(record.populations)} · "
        f"{record.parameters:,} parameters · {record.seconds:.0f} s · zoo {record.zoo} at snapshot {record.snapshot}"
    )
    table = run_metrics(run)
    st.dataframe(table, key="metrics", hide_index=True, column_config=number_columns(table))
    if len(found) > 1:
        with st.expander(f"All {len(found)} runs", icon=":material/table_rows:"):
            st.dataframe(run_table(found), key="runs", hide_index=True)
    records = joined(run)
    left, right = st.columns([1, 1], gap="medium")
    with left:
        st.subheader("Embeddings", anchor=False)
        show_embeddings(run, records, split)
    with right:
        st.subheader("Predicted and true", anchor=False)
        show_predictions(run, split)
    with st.expander("Training of the metanet", icon=":material/show_chart:"):
        show_curves(run, {str(each.path.relative_to(folder)): each for each in found})


def choose(folder: Path, found: list[Run]) -> Run:
    """The run; raises `UserError` for a name in the link that is not there."""
    names = {str(run.path.relative_to(folder)): run for run in found}
    asked = st.query_params.get("run")
    name = st.selectbox("Run", list(names), key="run", **LINKED)
    if asked and asked not in names:
        raise UnknownNameError("run", asked, names, "the Metanet page")
    return names[name]


def choose_split(run: Run) -> str:
    """The split that the charts show."""
    known = [name for name in SPLITS if name in set(run.table["split"])]
    chosen = st.segmented_control("Split", known, default=known[-1], required=True, key="split", **LINKED)
    return chosen or known[-1]


def joined(run: Run) -> pd.DataFrame:
    """The run's table with the columns of the model table, where the open zoo has its models."""
    own = run.table.set_axis(model_names(run.table))
    path = zoo_path()
    if path is None:
        return own
    models = data.table(path, data.opened(path).snapshot_id)
    return own.join(models.drop(columns=[name for name in own.columns if name in models]))


def show_embeddings(run: Run, records: pd.DataFrame, split: str) -> None:
    """The map, coloured by a column; a click offers the model's page."""
    columns = [str(name) for name in records.columns if records[name].nunique(dropna=True) > 1]
    first = next((name for name in TELLING if name in columns), None)
    left, middle, right = st.columns([3, 2, 2], vertical_alignment="bottom")
    with left:
        colour = st.selectbox("Colour", columns, index=columns.index(first) if first else 0, key="embedding colour", **LINKED)  # fmt: skip
    with middle:
        method = st.segmented_control("Map", METHODS, default=METHODS[0], required=True, key="map", **LINKED)
    with right:
        only = st.toggle("This split only", value=False, key="only", **LINKED)
    chosen = records.index[records["split"] == split] if only else None
    found = data.embedding(run, records, method or METHODS[0])
    event: Any = st.plotly_chart(
        found.plot(colour, chosen).update_layout(dragmode="pan"), key="embeddings", theme=None, config=PLOTLY,
        on_select="rerun", selection_mode="points",
    )  # fmt: skip
    sample = f"A random sample of {len(found.frame):,} of {found.of:,} models. " if len(found.frame) < found.of else ""
    st.caption(f"{sample}Click a point to open its model.")
    offer(event)


def show_curves(run: Run, runs: dict[str, Run]) -> None:
    """Learning curves of the run, and of others that are chosen."""
    own = next(name for name, each in runs.items() if each is run)
    others = [name for name in runs if name != own]
    beside = st.multiselect("Beside", others, key="beside", placeholder="other runs") if others else []
    curves = LearningCurves({name: runs[name].curves for name in (own, *beside)})
    st.plotly_chart(curves.plot(), key="learning", theme=None, config=PLOTLY)


def show_predictions(run: Run, split: str) -> None:
    """Confusion matrix or scatter plot."""
    found = data.predictions_of(run, split)
    st.caption("  ·  ".join(f"{name} **{value:.4g}**" for name, value in found.metrics.items()) or f"{split}: no metrics")  # fmt: skip
    event: Any = st.plotly_chart(
        found.plot(), key="predictions", theme=None, config=PLOTLY, on_select="rerun", selection_mode="points"
    )
    offer(event)


def offer(event: Any) -> None:
    """A link to the model that was clicked."""
    hits = event["selection"]["points"]
    if hits and isinstance(hits[0].get("customdata"), str):
        link_to_model(hits[0]["customdata"])


if __name__ == "__main__":  # Streamlit runs a page as a script
    page()
