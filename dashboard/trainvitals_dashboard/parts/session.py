"""The visitor's session: which client, which theme, which run, and what to say when all fails."""

from __future__ import annotations

import time
from collections.abc import Callable

import streamlit as st

from trainvitals_dashboard.client import Answer, Client, Problem
from trainvitals_dashboard.source import Source, chosen
from trainvitals_dashboard.wording import ago, literal, plain

FLEET, RUN, LAYERS = "views/fleet.py", "views/run.py", "views/layers.py"
"""Pages, as st.page_link and st.switch_page name them: relative to app.py."""
_TYPED = "typed_token"


@st.cache_resource(max_entries=64, show_spinner=False)
def _client_of(source: Source, typed: str) -> Client:
    return Client(source.url, (lambda: typed) if source.asks else source.token)


def client() -> Client:
    """Return the client of this visitor: all share one, unless each has a token of their own."""
    source = chosen()
    return _client_of(source, st.session_state.get(_TYPED, "") if source.asks else "")


def is_dark() -> bool:
    """Whether the page is dark, as the browser says."""
    return st.context.theme.type == "dark"


def now() -> float:
    """Return seconds since the epoch."""
    return time.time()


def run_in_url() -> str:
    """Return the run the address names, "" for none."""
    return st.query_params.get("run", "")


def signed_in() -> bool:
    """Whether the page may be shown; otherwise ask for a token."""
    if not chosen().asks or st.session_state.get(_TYPED):
        return True
    with st.form("sign_in", width=480):
        st.markdown("#### A token is required")
        st.caption(
            "This dashboard can be reached by others. `trainvitals token create read` on the "
            "collector's machine makes a token; it stays in this tab's session."
        )
        typed = st.text_input("Token", type="password", autocomplete="off")
        if st.form_submit_button("Open", type="primary") and typed.strip():
            st.session_state[_TYPED] = typed.strip()
            st.rerun()
    return False


def guarded(show: Callable[[], None]) -> None:
    """Show a page, or what keeps it from being shown and what to do about it."""
    try:
        show()
    except Problem as problem:
        explain(problem)


def explain(problem: Problem) -> None:
    """Say why there is nothing to see, and what to do."""
    source = chosen()
    url = literal(source.url)
    if problem.reason == "unreachable":
        st.error(
            f"**The collector does not answer** at {url}. Training goes on, and its data waits "
            "on the trainer's disk.",
            icon=":material/cloud_off:",
        )
        st.caption("Is it running? Start it on its machine:")
        st.code("trainvitals serve", language="bash")
        st.caption("Or show another one: `trainvitals dashboard --collector URL`.")
        st.caption(_said(problem))
    elif problem.reason in ("unauthorised", "forbidden"):
        st.error(
            f"**The collector at {url} does not accept the token.**"
            if problem.reason == "unauthorised"
            else f"**This token may not read** at {url}.",
            icon=":material/key_off:",
        )
        if source.asks:
            st.session_state.pop(_TYPED, None)
            st.button("Use another token")
        else:
            st.caption(
                f"The token is read from {literal(str(source.token_file))}, anew for each request. "
                "On the collector's machine make one that may read, and write it there:"
            )
            st.code("trainvitals token create read", language="bash")
    elif problem.reason == "unknown_run":
        st.warning(
            f"**No run {literal(run_in_url())}** has reported to {url}.",
            icon=":material/search_off:",
        )
        st.page_link(FLEET, label="All runs", icon=":material/arrow_back:")
    else:
        st.error(f"**The collector refuses this.** {_said(problem)}", icon=":material/block:")


def _said(problem: Problem) -> str:
    return plain(problem.text)


def age_banner(*answers: Answer[object]) -> None:
    """Say so when what is shown is not from now: the oldest of the answers counts."""
    stale = [answer for answer in answers if answer.problem is not None]
    if not stale:
        return
    oldest = min(stale, key=lambda answer: answer.at)
    st.warning(
        f"**The collector does not answer.** What you see is from {ago(oldest.at, now())}; "
        f"the dashboard keeps asking {literal(chosen().url)}.",
        icon=":material/cloud_off:",
    )
