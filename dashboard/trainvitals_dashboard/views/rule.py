"""The page of one rule (what it detects, why it matters, what to do, thresholds), or their list."""

from __future__ import annotations

import streamlit as st

from trainvitals_dashboard.client import Problem
from trainvitals_dashboard.parts.header import brand, links_to_all_runs
from trainvitals_dashboard.parts.session import RULE, age_banner, client, guarded
from trainvitals_dashboard.parts.verdict import rule_text
from trainvitals_dashboard.wording import clean, literal, plain, prose, words


def show() -> None:
    """Show the rule that the URL names (`code=TV201`); without one, all rules."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        brand()
        links_to_all_runs()
    code = st.query_params.get("code", "")
    if not code:
        _all_rules()
        return
    st.query_params["code"] = code  # a link from the list to this same page leaves the URL as it is
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


def _all_rules() -> None:
    answer = client().rules()
    st.set_page_config(page_title="Rules – trainvitals")
    age_banner(answer)
    st.markdown("## Rules", anchors=False)
    st.caption(f"What trainvitals looks for: {len(answer.value.rules)} rules.")
    for rule in answer.value.rules:
        with st.container(gap="xsmall"):
            label = f"**{plain(rule.code)}** {plain(words(rule.rule))}"
            st.page_link(RULE, label=label, query_params={"code": rule.code})
            st.caption(prose(rule.summary))


if __name__ == "__main__":
    guarded(show)
