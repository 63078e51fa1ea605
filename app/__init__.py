"""The Streamlit front-end."""
