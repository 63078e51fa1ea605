"""To come."""

import streamlit as st

from app.frame import framed


@framed("symmetry")
def page() -> None:
    st.title("symmetry")
