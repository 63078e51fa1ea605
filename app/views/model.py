"""The Model page: one model of a zoo, its weights, and its place in the population."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import streamlit as st

from analysis.graph_drawing import MOST_NODES
from analysis.rendering import is_image_task
from app import data
from app.frame import LINKED, PLOTLY, framed, need_zoo
from modelzoo.errors import UnknownNameError, UserError

FIRST_TENSORS = 12  # shown before one chooses


@dataclass(frozen=True)
class Choice:
    """The model that is shown: where it is, and which of its checkpoints."""

    path: str
    snapshot: str
    population: str
    row: int
    checkpoint: int

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """The arguments of a cached loader."""
        return self.path, self.snapshot, self.population, self.row, self.checkpoint


@framed("Model")
def page() -> None:
    """One model: overview, weights, comparison with its population, spectra, parameter graph."""
    path = need_zoo()
    if path is None:
        return
    st.title("Model")
    choice = choose(path, data.opened(path).snapshot_id)
    if choice is None:
        return
    view = st.segmented_control(
        "View", list(VIEWS), default=next(iter(VIEWS)), required=True, key="view", **LINKED, label_visibility="collapsed",
    )  # fmt: skip
    VIEWS[view or next(iter(VIEWS))](choice)


def choose(path: str, snapshot: str) -> Choice | None:
    """Population, model and checkpoint; raises `UserError` for a name or id in the link that is not there."""
    names = data.opened(path).names()
    if not names:
        st.info(f"This zoo is empty. Fill it with `metazoo populate {path} siren --models 200`.", icon=":material/info:")  # fmt: skip
        return None
    asked = st.query_params.get("population")
    left, middle, right = st.columns([4, 2, 6], gap="medium", vertical_alignment="bottom")
    with left:
        name = st.selectbox("Population", names, key="population", **LINKED)
    if asked and asked not in names:
        raise UnknownNameError("population", asked, names, f"metazoo ls {path}")
    population = data.population(path, snapshot, name)
    if not len(population):
        raise UserError(f"population {name!r} has no models yet; repeat metazoo populate to go on with it.")
    with middle:
        model = st.number_input(
            "Model", min_value=0, value=int(population.table.index[0]), step=1, key="model", **LINKED, help="The id of the model; arrows go to the next one.",
        )  # fmt: skip
    steps = list(population.info.checkpoint_steps)
    checkpoint = len(steps) - 1
    if len(steps) > 1:
        with right:
            step = st.select_slider(
                "Checkpoint, optimizer step", steps, value=steps[-1], key=f"step {name}", **LINKED,
            )  # fmt: skip
            checkpoint = steps.index(step)
    row = int(population.positions([int(model)])[0])
    return Choice(path, snapshot, name, row, checkpoint)


def overview(choice: Choice) -> None:
    """What the model is and how well it does."""
    population = data.population(choice.path, choice.snapshot, choice.population)
    found = data.architecture_of(choice.path, choice.snapshot, choice.population)
    entry = population.table.iloc[choice.row]
    facts(entry, f"test_{population.task.metric}", found.parameters)
    st.caption(
        f"{population.family.summary} {population.family.equation} · {population.info.paper} · task "
        f"**{population.info.task}**: {population.task.summary}"
    )
    left, right = st.columns([6, 5], gap="medium")
    with left:
        if is_image_task(population.task):
            st.subheader("The image it represents", anchor=False)
            st.plotly_chart(data.reconstruction(*choice.key).plot(), key="image", theme=None, config=PLOTLY)
        st.subheader("Training", anchor=False)
        try:
            st.plotly_chart(data.curves(*choice.key).plot(), key="curves", theme=None, config=PLOTLY)
        except UserError as error:  # a population may well have been stored without curves
            st.caption(str(error))
    with right:
        st.subheader("Architecture", anchor=False)
        st.plotly_chart(found.plot(), key="architecture", theme=None, config=PLOTLY)
    st.dataframe(
        found.to_frame(), key="parts", hide_index=True,
        column_config={
            "parameters": st.column_config.NumberColumn(format="localized"),
            "share": st.column_config.ProgressColumn(min_value=0, max_value=1, format="percent"),
        },
    )  # fmt: skip
    with st.expander("All columns of the model table", icon=":material/table_rows:"):
        st.dataframe(entry.astype(str).rename("value"), key="columns of the model")


def facts(entry: pd.Series, metric: str, parameters: int) -> None:
    """The few numbers one asks for first."""
    shown = {"status": entry["status"], metric: entry.get(metric), "parameters": f"{parameters:,}"}
    shown |= {name: entry[name] for name in ("label", "split", "learning_rate", "seed") if name in entry and entry[name] != -1}  # fmt: skip
    for place, (name, value) in zip(st.columns(len(shown)), shown.items(), strict=True):
        place.metric(name, f"{value:.4g}" if isinstance(value, float | np.floating) else str(value))


def tensors_of(choice: Choice) -> tuple[str, ...]:
    """The tensors to show; all of a small model when none is chosen."""
    population = data.population(choice.path, choice.snapshot, choice.population)
    names = [info.name for info in population.info.parameters]
    chosen = st.multiselect(
        "Tensors", names, key=f"tensors {choice.population}", **LINKED,
        placeholder="all" if len(names) <= FIRST_TENSORS else f"the first {FIRST_TENSORS} of {len(names)}",
        label_visibility="collapsed",
    )  # fmt: skip
    return tuple(chosen) or tuple(names[:FIRST_TENSORS])


def weights(choice: Choice) -> None:
    """Every tensor as a heat map."""
    drawing = data.maps(*choice.key, tensors_of(choice)).plot()
    st.plotly_chart(drawing, key="maps", theme=None, config=PLOTLY)
    st.caption("Rows are outputs, columns inputs; kernels are laid out as tiles. One scale for all tensors, centred at 0.")  # fmt: skip


def comparison(choice: Choice) -> None:
    """Histograms and statistics over those of the population."""
    tensors = tensors_of(choice)
    found = data.histograms(*choice.key, tensors)
    st.subheader("Distribution of the weights", anchor=False)
    st.plotly_chart(found.plot(), key="histograms", theme=None, config=PLOTLY)
    st.subheader("Statistics, and the share of the population below each", anchor=False)
    st.plotly_chart(data.statistics(*choice.key, tensors).plot(), key="statistics", theme=None, config=PLOTLY)
    st.caption(f"Grey is {of_population(found.sample, found.population)}.")


def of_population(sample: int, population: int) -> str:
    """What a band stands for, in words."""
    return f"the whole population of {population:,} models" if sample == population else f"a random sample of {sample:,} of {population:,} models"  # fmt: skip


def spectrum(choice: Choice) -> None:
    """Singular values over those of the population."""
    found = data.spectra(*choice.key, tensors_of(choice))
    st.plotly_chart(found.plot(), key="spectra", theme=None, config=PLOTLY)
    st.caption(
        f"Singular values in descending order, beside {of_population(found.sample, found.population)}; "
        r"stable rank is $\lVert W \rVert_F^2 / \lVert W \rVert_2^2$."
    )


def graph(choice: Choice) -> None:
    """The parameter graph, collapsed by layer and, for a small model, neuron by neuron."""
    st.subheader("Collapsed by layer", anchor=False)
    st.plotly_chart(data.layers_drawn(*choice.key).plot(), key="layers", theme=None, config=PLOTLY)
    st.caption("A line is a tensor, the wider the more entries; a small square stands for the biases and gains of the group beside it.")  # fmt: skip
    st.subheader("Neuron by neuron", anchor=False)
    structure = data.structure_of(choice.path, choice.snapshot, choice.population)
    size = f"{structure.num_nodes:,} nodes and {structure.num_edges:,} edges, one a parameter."
    if structure.num_nodes > MOST_NODES:
        st.caption(f"{size} It is drawn for at most {MOST_NODES} nodes.")
        return
    drawn = data.neurons_drawn(*choice.key)
    st.plotly_chart(drawn.plot(), key="neurons", theme=None, config=PLOTLY)
    left_out = f" The {len(drawn.edges):,} strongest of {drawn.of:,} connections are drawn." if len(drawn.edges) < drawn.of else ""  # fmt: skip
    st.caption(f"{size} Orange: positive, blue: negative, the stronger the darker.{left_out}")


VIEWS: dict[str, Callable[[Choice], None]] = {
    "Overview": overview,
    "Weights": weights,
    "Population": comparison,
    "Spectrum": spectrum,
    "Graph": graph,
}


if __name__ == "__main__":  # Streamlit runs a page as a script
    page()
