"""The Symmetry page: the group of a family or a model, its check, and what its elements do to the weights."""

from dataclasses import replace

import numpy as np
import streamlit as st

from analysis.symmetry.orbit import Move, Walker
from analysis.symmetry.table import GroupTable
from app import data
from app.choice import Choice, choose_module
from app.frame import LINKED, PLOTLY, framed
from app.settings import zoo_path
from graphs import SymmetryGroup
from graphs.factors import Factor, PermutationFactor
from modelzoo.errors import UnknownNameError

TIMES = tuple(float(time) for time in np.linspace(-2, 2, 41))


@framed("Symmetry")
def page() -> None:
    """Choose a module, read its group, and move its weights along an orbit."""
    st.title("Symmetry")
    subject = choose_module()
    group, walker = walked(subject)
    st.subheader("The group", anchor=False)
    show_group(data.group_table_of(group, walker, int(st.session_state.get("check", 0))))
    st.subheader("Along an orbit", anchor=False)
    move(group, walker)


def walked(subject: Choice) -> tuple[SymmetryGroup, Walker]:
    """The group of the subject, and the module ready to be moved."""
    if subject.family:
        return data.family_group(subject.family, subject.tiny)
    path = zoo_path()
    assert path is not None
    return data.model_group(path, data.opened(path).snapshot_id, subject.population, subject.model)


def show_group(table: GroupTable) -> None:
    """The factors, the verdict and what was left out."""
    verdict = table.verdict
    left, right = st.columns([9, 2], vertical_alignment="center")
    with right:
        if st.button("Check again", icon=":material/casino:", help="Three new random elements on new random inputs.", width="stretch"):  # fmt: skip
            st.session_state["check"] = int(st.session_state.get("check", 0)) + 1
            st.rerun()
    with left:
        if verdict is not None and verdict.passed:
            st.success(verdict.sentence, icon=":material/verified:")
        elif verdict is not None:
            st.error(verdict.sentence, icon=":material/error:")
    st.caption(f"{len(table.rows)} {'factor' if len(table.rows) == 1 else 'factors'} · dimension **{table.dimension}** · discrete part of order **{table.order}**")  # fmt: skip
    st.dataframe(
        table.to_frame(), key="factors", hide_index=True,
        column_config={"log order": st.column_config.NumberColumn(format="%.2f"), "acts on": st.column_config.TextColumn(width="large")},
    )  # fmt: skip
    if table.rows:
        with st.expander("Which factor moves which tensor", icon=":material/grid_on:"):
            st.plotly_chart(table.plot(), key="incidence", theme=None, config=PLOTLY)
    if table.unknown_ops:
        st.caption("Operators without a rule, whose tensors stay fixed: " + ", ".join(f"{op} in {module!r}" for op, module in table.unknown_ops))  # fmt: skip


def move(group: SymmetryGroup, walker: Walker) -> None:
    """Choose a factor: a slider along a continuous one, a swap in a permutation one, random elements of any other."""
    movable = [f for f in group.factors if not isinstance(f, PermutationFactor) or f.identity().shape[-1] > 1]
    if not movable:
        st.info("This group is trivial: there is nothing to move along.", icon=":material/info:")
        return
    movable.sort(key=lambda factor: (factor.dimension == 0, not isinstance(factor, PermutationFactor)))
    names = [factor.name for factor in movable]
    asked = st.query_params.get("factor")
    chosen = st.selectbox("Factor", names, key="factor", **LINKED)
    if asked and asked not in names:
        raise UnknownNameError("factor", asked, names, "the table above")
    factor = group[chosen]
    if factor.dimension > 0:
        slide(walker, factor)
    elif isinstance(factor, PermutationFactor):
        swap(walker, factor)
    else:
        draw(walker, factor)


def slide(walker: Walker, factor: Factor) -> None:
    """A slider along exp(tX)."""
    time = st.slider("t, along exp(tX)·θ", TIMES[0], TIMES[-1], value=1.0, step=0.1, key="t", **LINKED)
    left, right = st.columns([4, 5], gap="medium")
    found = walker.along(factor.name, time)
    with left:
        st.plotly_chart(
            replace(data.orbit(walker, factor.name, TIMES), marked=time).plot(), key="path", theme=None, config=PLOTLY
        )
        st.markdown(found.sentence)
    with right:
        st.plotly_chart(found.plot(), key="weights moved", theme=None, config=PLOTLY)


def swap(walker: Walker, factor: Factor) -> None:
    """A transposition of two neurons or blocks."""
    copies, count = factor.identity().shape
    for name, last in (("first", count - 1), ("second", count - 1), ("copy", copies - 1)):
        if name in st.session_state:
            st.session_state[name] = min(int(st.session_state[name]), last)
    places = st.columns([2, 2, 2, 3], gap="medium", vertical_alignment="bottom")
    with places[3]:
        if st.button("Swap another pair", icon=":material/swap_vert:", type="primary", width="stretch"):
            state = np.random.default_rng()
            st.session_state["first"], st.session_state["second"] = (int(place) for place in state.choice(count, 2, replace=False))  # fmt: skip
            st.session_state["copy"] = int(state.integers(copies))
    with places[0]:
        first = st.number_input("Neuron", 0, count - 1, value=0, key="first", **LINKED)
    with places[1]:
        second = st.number_input("with neuron", 0, count - 1, value=1, key="second", **LINKED)
    with places[2]:
        place = st.number_input("in copy", 0, copies - 1, value=0, key="copy", disabled=copies == 1, **LINKED)
    show_move(walker.transposition(factor.name, int(first), int(second), int(place)))


def draw(walker: Walker, factor: Factor) -> None:
    """Random elements of a discrete factor."""
    left, right = st.columns([2, 7], gap="medium", vertical_alignment="bottom")
    with right:
        if st.button("Draw another element", icon=":material/casino:", type="primary"):
            st.session_state["draw"] = int(st.session_state.get("draw", 0)) + 1
    with left:
        seed = st.number_input("Element", 0, 2**31, value=0, key="draw", help="The seed of the random element.", **LINKED)  # fmt: skip
    show_move(walker.drawn(factor.name, int(seed)))


def show_move(found: Move) -> None:
    """Both function errors, and the weights before and after."""
    left, right = st.columns([4, 5], gap="medium")
    with left:
        st.plotly_chart(found.plot_errors(), key="errors", theme=None, config=PLOTLY)
        st.markdown(found.sentence)
    with right:
        st.plotly_chart(found.plot(), key="weights moved", theme=None, config=PLOTLY)


if __name__ == "__main__":  # Streamlit runs a page as a script
    page()
