"""The dashboard: what a collector knows of training runs, as pages in a browser.

Comes in: JSON of the collector's query API, through client.py.
Goes out: Streamlit elements; figures/ turns data into ECharts options and knows no Streamlit.
Promise:  names of runs and layers are other people's text. They reach a page only through
          wording.py, or where Streamlit shows plain text (st.code, st.text, tables, charts).
Start at app.py; mount.py and cli.py put it on a port.
"""
