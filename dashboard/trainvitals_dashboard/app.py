"""The router from URLs to pages. Streamlit runs this script; mount.py and cli.py start it."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from trainvitals_dashboard.parts.memory import freeze_once
from trainvitals_dashboard.parts.session import (
    ALERTS,
    BIAS,
    COMPARE,
    EXPERIMENTS,
    FLEET,
    INITIAL,
    LAYERS,
    LOSS,
    RULE,
    RUN,
    SETTINGS,
    rescue_banner,
    signed_in,
)

ICON = Path(__file__).with_name("icon.svg")
STYLE = """<style>
[data-testid=stMarkdownContainer]:has(> table) { overflow-x: auto; }
[data-testid=stCaptionContainer] code { font-size: 0.9em; }
[data-testid=stHorizontalBlock] :is(h2, h4) { padding-top: 0; }
@media (max-width: 640px) { [data-testid=stMarkdownContainer] :is(h2, h3) { font-size: 1.4rem; } }
</style>"""
"""A table that is wider than a phone scrolls in its place. Streamlit lets it leave the screen.

Code in a caption would have 10.5 pixels, and the room above a heading would move it below the
buttons beside it.
"""


def main() -> None:
    """Show the page that the URL names."""
    # A local file: the browser would fetch a named icon from a font server.
    st.set_page_config(page_title="trainvitals", page_icon=ICON, layout="wide")
    st.html(STYLE)
    # Each update of a page has the titles of all pages twice: they are short.
    page = st.navigation(
        [
            st.Page(FLEET, title="Runs", url_path="fleet", default=True),
            st.Page(RUN, title="Run", url_path="run"),
            st.Page(LOSS, title="Loss", url_path="loss"),
            st.Page(LAYERS, title="Layers", url_path="layers"),
            st.Page(INITIAL, title="Initialisation", url_path="initialisation"),
            st.Page(BIAS, title="Bias", url_path="bias"),
            st.Page(COMPARE, title="Compare", url_path="compare"),
            st.Page(EXPERIMENTS, title="Experiments", url_path="experiments"),
            st.Page(ALERTS, title="Alerts", url_path="alerts"),
            st.Page(RULE, title="Rule", url_path="rule"),
            st.Page(SETTINGS, title="Settings", url_path="settings"),
        ],
        position="hidden",
    )
    st.set_page_config(page_title=f"{page.title} – trainvitals")
    if signed_in():
        rescue_banner()
        page.run()
        freeze_once(page.url_path)


if __name__ == "__main__":
    main()
