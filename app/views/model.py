"""To come."""

import streamlit as st

from app.frame import framed


@framed("model")
def page() -> None:
    st.title("model")
