"""A filter whose value stands in the URL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from trainvitals_dashboard.wording import shortened

NO_WORDS: Mapping[str, str] = {}


def choice(
    key: str, empty: str, options: list[str], words: Mapping[str, str] = NO_WORDS
) -> str | None:
    """Show a filter, and return what the URL or the visitor chose; None for everything.

    `key` is the parameter of the URL, `empty` the text without a choice; `words` are shown in place
    of the options that they name.
    """
    asked = st.query_params.get(key)
    if asked and asked not in options:
        options = [*options, asked]  # a shared link to runs that are gone still says so
    bound: dict[str, Any] = {"bind": "query-params", "label_visibility": "collapsed"}
    chosen: str | None = st.selectbox(
        key.capitalize(),
        options,
        index=None,
        key=key,
        placeholder=empty,
        format_func=lambda option: words.get(option) or shortened(option, 60),
        width=160,
        **bound,
    )
    return chosen
