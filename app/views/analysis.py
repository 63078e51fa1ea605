"""The Analysis page: any registered analysis on a family, a model or a population, with its table and its picture."""

import json
from typing import Any

import streamlit as st

from analysis.analysis import Analysis, Result, analyses, find
from app import data
from app.choice import Choice, choose_module
from app.frame import LINKED, PLOTLY, framed, need_zoo, number_columns
from app.settings import zoo_path
from modelzoo.errors import UnknownNameError
from modelzoo.key_values import read_key_values

OF = {"nothing": "of no model", "module": "of a module", "population": "of a population"}


@framed("Analysis")
def page() -> None:
    """Choose an analysis, what it looks at and its options; run it."""
    st.title("Analysis")
    found = choose_analysis()
    choice = choose_subject(found)
    if choice is None:
        return
    fields = choose_options(found)
    found.configure(fields)
    asked = (found.name, choice, json.dumps(fields))
    if st.button("Run", icon=":material/play_arrow:", type="primary"):
        st.session_state["asked"] = asked
    if st.session_state.get("asked") != asked:
        st.info("Press Run; analyses that train networks take minutes.", icon=":material/info:")
        return
    of = (choice.family, choice.tiny, choice.population, choice.model)
    show(data.analysis_result(found.name, zoo_path(), snapshot(), *of, json.dumps(fields)))


def choose_analysis() -> Analysis:
    """The analysis; raises `UserError` for a name in the link that is not there."""
    names = list(analyses())
    asked = st.query_params.get("analysis")
    left, right = st.columns([4, 6], gap="medium", vertical_alignment="bottom")
    with left:
        name = st.selectbox("Analysis", names, index=names.index("tangent_kernel"), key="analysis", **LINKED)
    if asked and asked not in names:
        raise UnknownNameError("analysis", asked, names, "metazoo analyze")
    found = find(name)
    with right:
        st.markdown(f"{found.summary} *({OF[found.of]})*")
    return found


def choose_subject(found: Analysis) -> Choice | None:
    """What the analysis looks at; None where there is no zoo to take it from."""
    if found.of == "nothing":
        return Choice()
    if found.of == "module":
        return choose_module()
    path = need_zoo()
    if path is None:
        return None
    names = data.opened(path).names()
    if not names:
        st.info("This zoo is empty; fill it with `metazoo populate`.", icon=":material/info:")
        return None
    return Choice(population=st.selectbox("Population", names, key="population", **LINKED))


def snapshot() -> str:
    """The snapshot of the zoo, if there is one."""
    path = zoo_path()
    return data.opened(path).snapshot_id if path else ""


def choose_options(found: Analysis) -> dict[str, Any]:
    """The options that differ from their defaults, each written as JSON or text."""
    defaults = {key: json.dumps(field.default) for key, field in found.options.model_fields.items()}
    if not defaults:
        return {}
    texts = {}
    with st.expander("Options", icon=":material/tune:"):
        columns = st.columns(3)
        for place, (key, default) in enumerate(defaults.items()):
            with columns[place % 3]:
                texts[key] = st.text_input(key.replace("_", " "), default, key=f"{found.name} {key}")
    return read_key_values([f"{key}={text}" for key, text in texts.items() if text != defaults[key]])


def show(result: Result) -> None:
    """The sentence, the picture and the table."""
    sentence = getattr(result, "sentence", None)
    if sentence:
        st.success(sentence, icon=":material/insights:")
    st.plotly_chart(result.plot(), key="picture", theme=None, config=PLOTLY)
    frame = result.to_frame()
    st.dataframe(frame, key="numbers", hide_index=True, column_config=number_columns(frame))


if __name__ == "__main__":  # Streamlit runs a page as a script
    page()
