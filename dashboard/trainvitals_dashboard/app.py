"""The router: which page an address opens. Run by Streamlit; mount.py and cli.py start it."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from trainvitals_dashboard.parts.session import FLEET, LAYERS, RUN, signed_in

ICON = Path(__file__).with_name("icon.svg")


def main() -> None:
    """Open the page of the address."""
    # A file of ours: an icon by name would be fetched from a font server.
    st.set_page_config(page_title="trainvitals", page_icon=ICON, layout="wide")
    page = st.navigation(
        [
            st.Page(FLEET, title="Runs – trainvitals", url_path="fleet", default=True),
            st.Page(RUN, title="Run – trainvitals", url_path="run"),
            st.Page(LAYERS, title="Layers – trainvitals", url_path="layers"),
        ],
        position="hidden",
    )
    if signed_in():
        page.run()


main()
