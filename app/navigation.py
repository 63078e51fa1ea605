"""The pages; each is a script of its own under `views/`."""

import streamlit as st


def pages() -> dict[str, st.Page]:
    """Every page by its place in the URL."""
    return {
        "zoo": st.Page("views/zoo.py", title="Zoo", icon=":material/grid_view:", default=True),
        "model": st.Page("views/model.py", title="Model", icon=":material/account_tree:"),
        "metanet": st.Page("views/metanet.py", title="Metanet", icon=":material/scatter_plot:"),
        "symmetry": st.Page("views/symmetry.py", title="Symmetry", icon=":material/swap_calls:"),
        "analysis": st.Page("views/analysis.py", title="Analysis", icon=":material/query_stats:"),
    }
