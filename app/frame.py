"""What all pages share: the frame with its error sentence and end marker, the links between pages, the look."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import pandas as pd
import streamlit as st

from analysis.theme import CATEGORICAL, FOCUS, INK, MUTED
from app.data import opened
from app.navigation import pages
from app.settings import zoo_path
from modelzoo.errors import UserError

LOGO = f"""<svg xmlns="http://www.w3.org/2000/svg" width="132" height="28" viewBox="0 0 132 28">
<g stroke="{MUTED}" stroke-width="1.1"><path d="M5 7L14 5M5 7L14 14M5 7L14 23M5 20L14 5M5 20L14 14M5 20L14 23M14 5L23 14M14 14L23 14M14 23L23 14"/></g>
<g fill="{CATEGORICAL[0]}"><circle cx="5" cy="7" r="3"/><circle cx="5" cy="20" r="3"/></g>
<g fill="{CATEGORICAL[2]}"><circle cx="14" cy="5" r="3"/><circle cx="14" cy="14" r="3"/><circle cx="14" cy="23" r="3"/></g>
<circle cx="23" cy="14" r="3" fill="{FOCUS}"/>
<text x="33" y="20" font-family="Inter, Source Sans, Helvetica, Arial, sans-serif" font-size="18" font-weight="600" fill="{INK}">metazoo</text></svg>"""

STYLE = f"""
.stMainBlockContainer {{ padding-top: 4.2rem; padding-bottom: 1.5rem; max-width: 1500px; }}
h1 {{ padding: 0 0 .1rem 0 !important; font-size: 1.7rem !important; }}
h3 {{ padding: .5rem 0 .1rem 0 !important; font-size: 1.08rem !important; }}
[data-testid="stMetricValue"] {{ font-size: 1.25rem; }}
[data-testid="stMetricLabel"] {{ color: {MUTED}; }}
.st-key-page-end {{ border-top: 1px solid #E7EAEE; padding-top: .4rem; margin-top: .6rem; }}
"""

PLOTLY = {"displayModeBar": False}
LINKED: Any = {"bind": "query-params", "persist_state": "session"}  # a control whose value is part of the URL

Page = Callable[[], None]


def framed(name: str) -> Callable[[Page], Page]:
    """Make a function a page: a `UserError` becomes one sentence, and a marker at the end says that all is drawn."""

    def decorate(body: Page) -> Page:
        @wraps(body)
        def page() -> None:
            try:
                body()
            except UserError as error:
                st.error(str(error), icon=":material/error:")
            with st.container(key="page-end"):
                st.caption(f"{name} · {describe_zoo()}")

        return page

    return decorate


def describe_zoo() -> str:
    """One line about the zoo that is shown."""
    path = zoo_path()
    if path is None:
        return "no zoo"
    try:
        return f"{path} · snapshot {opened(path).snapshot_id}"
    except UserError:
        return path


def number_columns(table: pd.DataFrame) -> dict[str, Any]:
    """Column configurations that show four digits of every real number."""
    return {str(name): st.column_config.NumberColumn(format="%.4g") for name in table.columns if table[name].dtype.kind == "f"}  # fmt: skip


def need_zoo() -> str | None:
    """The zoo's path; without one, tell how to make one and return None."""
    path = zoo_path()
    if path is None:
        st.info(
            "The app was started without a zoo. Make one with `metazoo populate zoo siren --models 200` and open it with "
            "`metazoo app --zoo zoo`.", icon=":material/info:")  # fmt: skip
    return path


def link_to_model(name: str) -> None:
    """A link to the page of `population/id`."""
    population, _, model = name.rpartition("/")
    st.page_link(pages()["model"], label=f"Open {name}", icon=":material/open_in_new:", query_params={"population": population, "model": model})  # fmt: skip
