"""Delete a run from its page, and restore it. Shown to visitors whose token may do so."""

from __future__ import annotations

import streamlit as st

from trainvitals.api.schema import RunDetail
from trainvitals_dashboard.client import Problem
from trainvitals_dashboard.parts.session import FLEET, client, now
from trainvitals_dashboard.wording import in_future, literal, plain

_DELETED = "deleted_run"
"""In the state of the session: (id, time until which it is in the bin) of the newest one."""


def delete_popover(run: RunDetail) -> None:
    """Show the button that asks for a second click, if the visitor's token may change runs."""
    if not client().may_write():
        return
    with st.popover("Delete", icon=":material/delete:", key=f"delete_{run.id}"):
        st.markdown("The run is moved to the bin. It can be restored for some days.")
        if run.state == "running":
            st.caption("It is still running. Records that it sends from now on are refused.")
        if st.button("Delete this run", type="primary", key=f"delete_now_{run.id}"):
            _delete(run.id)


def deleted_here(run_id: str) -> bool:
    """Return whether this visitor deleted the run; if so, show how to restore it."""
    deleted, until = st.session_state.get(_DELETED, ("", None))
    if deleted != run_id:
        return False
    end = "" if until is None else f" All its data is removed {in_future(until, now())}."
    st.info(f"**The run {literal(run_id)} is in the bin.**{end}", icon=":material/delete:")
    if st.button("Undelete", icon=":material/undo:"):
        _undelete(run_id)
    st.page_link(FLEET, label="All runs", icon=":material/arrow_back:")
    return True


def _delete(run_id: str) -> None:
    try:
        deleted = client().delete(run_id)
    except Problem as problem:
        st.error(f"The run is not deleted: {plain(problem.text)}")
        return
    st.session_state[_DELETED] = run_id, deleted.removed_at
    st.rerun()


def _undelete(run_id: str) -> None:
    try:
        client().undelete(run_id)
    except Problem as problem:
        st.error(f"The run is still in the bin: {plain(problem.text)}")
        return
    del st.session_state[_DELETED]
    st.rerun()
