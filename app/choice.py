"""Choosing what a page looks at: a family, or a model of the zoo."""

from dataclasses import dataclass

import streamlit as st

from app import data
from app.frame import LINKED
from app.settings import zoo_path
from modelzoo.errors import UnknownNameError

FAMILY, MODEL = "Family", "Model of the zoo"


@dataclass(frozen=True)
class Choice:
    """What is looked at: a family at its initialisation, or a model of the zoo."""

    family: str = ""
    tiny: bool = True
    population: str = ""
    model: int = 0


def choose_module() -> Choice:
    """The family or model; raises `UserError` for a name in the link that is not there."""
    path = zoo_path()
    asked = st.query_params.get("family")
    left, middle, right = st.columns([3, 4, 3], gap="medium", vertical_alignment="bottom")
    with left:
        of = st.segmented_control("Of", [FAMILY, MODEL] if path else [FAMILY], default=FAMILY, required=True, key="of", **LINKED)  # fmt: skip
    if of == MODEL and path:
        snapshot = data.opened(path).snapshot_id
        with middle:
            name = st.selectbox("Population", data.opened(path).names(), key="population", **LINKED)
        population = data.population(path, snapshot, name)
        with right:
            model = st.number_input("Model", min_value=0, value=int(population.table.index[0]), step=1, key="model", **LINKED)  # fmt: skip
        population.positions([int(model)])
        return Choice(population=name, model=int(model))
    names = data.family_names()
    with middle:
        family = st.selectbox("Family", names, index=names.index("mlp"), key="family", **LINKED)
    if asked and asked not in names:
        raise UnknownNameError("family", asked, names, "metazoo families")
    with right:
        tiny = st.toggle("Smallest member", value=True, key="tiny", help="The family's config for tests; off: its default config.", **LINKED)  # fmt: skip
    return Choice(family=family, tiny=tiny)
