"""Pure functions from data to ECharts options: no Streamlit, no clock, no network.

Names in an option are plain text to ECharts (axis labels, legends, default tooltips); a name never
goes into a `formatter`, which is a template.
"""
