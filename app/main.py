"""The front-end's entry script: `metazoo app` runs it under Streamlit."""

import streamlit as st

from app.frame import LOGO, STYLE
from app.navigation import pages

st.set_page_config(page_title="Metazoo", page_icon=":material/hub:", layout="wide")
st.html(f"<style>{STYLE}</style>")
st.logo(LOGO, size="large")
st.navigation(list(pages().values()), position="top").run()
