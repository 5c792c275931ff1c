"""Pure functions from data to descriptions of charts: no Streamlit, no clock, no network.

charts.py and updates.py are for the chart board, which shows names as text only. heat.py, spark.py
make ECharts options, in which names are plain text too; a name never goes into a `formatter`, which
is a template.
"""
