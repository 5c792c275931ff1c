"""The visitor's session: client, theme, run, and the messages for failed requests."""

from __future__ import annotations

import time
from collections.abc import Callable

import streamlit as st

from trainvitals_dashboard.access import CollectorAccess, chosen
from trainvitals_dashboard.client import Answer, Client, Problem
from trainvitals_dashboard.wording import ago, literal, plain

FLEET, RUN, LAYERS = "views/fleet.py", "views/run.py", "views/layers.py"
INITIAL, BIAS, COMPARE = "views/initialisation.py", "views/bias.py", "views/compare.py"
EXPERIMENTS, LOSS = "views/experiments.py", "views/loss.py"
ALERTS, RULE, SETTINGS = "views/alerts.py", "views/rule.py", "views/settings.py"
"""Paths of the pages relative to app.py, for st.page_link and st.switch_page."""
_TYPED = "typed_token"
_RESCUE = "rescue"
_ASK_AGAIN_S = 30.0


@st.cache_resource(max_entries=64, show_spinner=False)
def _client_of(access: CollectorAccess, typed: str) -> Client:
    return Client(access.url, (lambda: typed) if access.asks else access.token)


def client() -> Client:
    """Return the client of this visitor. It is shared, unless each visitor enters a token."""
    access = chosen()
    return _client_of(access, st.session_state.get(_TYPED, "") if access.asks else "")


def is_dark() -> bool:
    """Return whether the browser uses the dark theme."""
    return st.context.theme.type == "dark"


def now() -> float:
    """Return seconds since the epoch."""
    return time.time()


def run_in_url() -> str:
    """Return the id of the run in the URL, "" if there is none."""
    return st.query_params.get("run", "")


def run_or_hint() -> str:
    """Return the id of the run in the URL; without one, show a hint and return ""."""
    run_id = run_in_url()
    if not run_id:
        st.info("The URL does not name a run.", icon=":material/help:")
        st.page_link(FLEET, label="All runs", icon=":material/arrow_back:")
    return run_id


def has_typed_token() -> bool:
    """Return whether the visitor entered the token of this session."""
    return bool(chosen().asks and st.session_state.get(_TYPED))


def signed_in() -> bool:
    """Return whether the page may be shown; if not, show the form for the token."""
    if not chosen().asks or st.session_state.get(_TYPED):
        return True
    with st.form("sign_in", width=480):
        st.markdown("#### A token is required")
        st.caption(
            "Other machines can reach this dashboard. Create a token with "
            "`trainvitals token create read` on the collector's machine. Only this tab keeps it."
        )
        typed = st.text_input("Token", type="password", autocomplete="off")
        if st.form_submit_button("Open", type="primary") and typed.strip():
            st.session_state[_TYPED] = typed.strip()
            st.rerun()
    return False


def rescue_banner() -> None:
    """Show a warning while the collector only reads a damaged database."""
    asked_at, is_rescue = st.session_state.get(_RESCUE, (-_ASK_AGAIN_S, False))
    if time.monotonic() >= asked_at + _ASK_AGAIN_S:
        is_rescue = client().is_rescue()
        st.session_state[_RESCUE] = time.monotonic(), is_rescue
    if is_rescue:
        st.error(
            "**The database of the collector is damaged.** It is only read: what is shown may be "
            "incomplete, and nothing new is stored. Trainings keep their records on their disks. "
            "To continue, stop the collector and run `trainvitals db restore BACKUP`.",
            icon=":material/healing:",
        )


def guarded(show: Callable[[], None]) -> None:
    """Show a page, or the problem that prevents it and how to solve it."""
    try:
        show()
    except Problem as problem:
        explain(problem)


def explain(problem: Problem) -> None:
    """Show why there is no data, and what to do."""
    access = chosen()
    url = literal(access.url)
    if problem.reason == "unreachable":
        st.error(
            f"**The collector does not answer** at {url}. The training continues and "
            "stores its data on its own disk.",
            icon=":material/cloud_off:",
        )
        st.caption("If the collector is not running, start it: `trainvitals serve`")
        st.caption("To show another collector: `trainvitals dashboard --collector URL`.")
        st.caption(_said(problem))
    elif problem.reason in ("unauthorised", "forbidden"):
        st.error(
            f"**The collector at {url} does not accept the token.**"
            if problem.reason == "unauthorised"
            else f"**The token has no read permission** at {url}.",
            icon=":material/key_off:",
        )
        if access.asks:
            st.session_state.pop(_TYPED, None)
            st.button("Use another token")
        else:
            create = "a read token on the collector's machine (`trainvitals token create read`)"
            st.caption(
                f"The token is `TRAINVITALS_TOKEN` of the dashboard's process. Create {create} "
                "and start the dashboard again with it."
                if access.token_given
                else f"The token is read from {literal(str(access.token_file))} at each request. "
                f"Create {create} and write it to this file."
            )
    elif problem.reason == "unknown_run":
        st.warning(
            f"**No run {literal(run_in_url())}** has reported to {url}.",
            icon=":material/search_off:",
        )
        st.page_link(FLEET, label="All runs", icon=":material/arrow_back:")
    else:
        st.error(
            f"**The collector rejected the request.** {_said(problem)}", icon=":material/block:"
        )


def _said(problem: Problem) -> str:
    return plain(problem.text)


def age_banner(*answers: Answer[object]) -> None:
    """Show a warning with the age of the oldest answer if any answer is not current."""
    stale = [answer for answer in answers if answer.problem is not None]
    if not stale:
        return
    oldest = min(stale, key=lambda answer: answer.at)
    st.warning(
        f"**The collector does not answer.** The data shown is from {ago(oldest.at, now())}; "
        f"the dashboard keeps trying to reach {literal(chosen().url)}.",
        icon=":material/cloud_off:",
    )
