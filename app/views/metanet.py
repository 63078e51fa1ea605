"""To come."""

import streamlit as st

from app.frame import framed


@framed("metanet")
def page() -> None:
    st.title("metanet")
