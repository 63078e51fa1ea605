"""The pages and the links between them."""

import streamlit as st

from app.views import metanet, model, symmetry, zoo


def pages() -> dict[str, st.Page]:
    """Every page by its place in the URL."""
    return {
        "zoo": st.Page(zoo.page, title="Zoo", icon=":material/grid_view:", url_path="zoo", default=True),
        "model": st.Page(model.page, title="Model", icon=":material/account_tree:", url_path="model"),
        "metanet": st.Page(metanet.page, title="Metanet", icon=":material/scatter_plot:", url_path="metanet"),
        "symmetry": st.Page(symmetry.page, title="Symmetry", icon=":material/swap_calls:", url_path="symmetry"),
    }
