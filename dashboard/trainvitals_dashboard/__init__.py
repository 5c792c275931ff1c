"""The dashboard: web pages that show the training runs of a collector.

Comes in: JSON of the collector's query API, through client.py.
Goes out: Streamlit elements; figures/ describes charts without Streamlit, board/ draws them.
Promise:  names of runs and layers are untrusted text. They are escaped by wording.py or passed to
          elements that show plain text (st.code, st.text, tables, charts).
Start at app.py; mount.py and cli.py serve it.
"""
