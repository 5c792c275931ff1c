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
    of the options that they name. The URL may name an option or its word.
    """
    # Streamlit compares the URL with what the list shows: `verdict=too_early` would choose nothing.
    named = {words.get(option, option): option for option in options}
    asked = st.query_params.get(key)
    if asked and asked in words:
        asked = st.session_state[key] = words[asked]
        del st.query_params[key]  # the list writes its own word there
    if asked and asked not in named:
        # A shared link may name a value that no run has any more: the list shows it all the same.
        named[asked] = next((option for option, word in words.items() if word == asked), asked)
    bound: dict[str, Any] = {"bind": "query-params", "label_visibility": "collapsed"}
    chosen: str | None = st.selectbox(
        key.capitalize(),
        list(named),
        index=None,
        key=key,
        placeholder=empty,
        format_func=lambda word: shortened(word, 60),
        width=170,
        **bound,
    )
    return None if chosen is None else named.get(chosen, chosen)
