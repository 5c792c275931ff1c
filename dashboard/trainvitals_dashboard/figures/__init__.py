"""Pure functions from data to descriptions of charts: no Streamlit, no clock, no network.

charts.py, updates.py and heat.py are for the chart board, which shows names as text only. spark.py
makes an SVG image, which contains numbers only.
"""
