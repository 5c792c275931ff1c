"""The page of one rule: what it detects, why it matters, what to do, its thresholds."""

from __future__ import annotations

import streamlit as st

from trainvitals_dashboard.client import Problem
from trainvitals_dashboard.parts.header import brand, links_to_all_runs
from trainvitals_dashboard.parts.session import age_banner, client, guarded
from trainvitals_dashboard.parts.verdict import rule_text
from trainvitals_dashboard.wording import clean, literal, plain, prose, words


def show() -> None:
    """Show the rule that the URL names (`code=TV201`)."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        brand()
        links_to_all_runs()
    code = st.query_params.get("code", "")
    if not code:
        st.info("The URL does not name a rule.", icon=":material/help:")
        return
    try:
        answer = client().rule(code)
    except Problem as problem:
        if problem.reason != "unknown_rule":
            raise
        st.warning(f"**The collector has no rule {literal(code)}.**", icon=":material/search_off:")
        return
    page = answer.value
    st.set_page_config(page_title=f"{clean(page.code)} {words(page.rule)} – trainvitals")
    age_banner(answer)
    st.markdown(f"## {plain(page.code)} {plain(words(page.rule))}", anchors=False)
    st.markdown(prose(page.summary))
    rule_text(page)


if __name__ == "__main__":
    guarded(show)
