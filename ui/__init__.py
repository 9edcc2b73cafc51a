"""What people touch: command line, Streamlit pages, HTTP API."""
