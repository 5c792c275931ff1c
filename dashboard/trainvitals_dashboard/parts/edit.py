"""Change a run: name, tags, notes, archived. Shown to visitors whose token may do so."""

from __future__ import annotations

from typing import Any

import streamlit as st

from trainvitals.api.schema import RunDetail
from trainvitals_dashboard.client import Problem
from trainvitals_dashboard.parts.session import client
from trainvitals_dashboard.wording import plain

NAME_MAX, NOTES_MAX = 200, 10_000


def edit_popover(run: RunDetail) -> None:
    """Show the button with the form, if the visitor's token may change runs."""
    if not client().may_write():
        return
    with st.popover("Edit", icon=":material/edit:"), st.form("edit_run", border=False):
        name = st.text_input(
            "Name",
            run.name,
            max_chars=NAME_MAX,
            help="Empty: the name that the training reported.",
            key="edit_name",
        )
        tags = st.text_input(
            "Tags",
            ", ".join(run.tags),
            help="Separated by commas. Runs with the tag keep are never removed.",
            key="edit_tags",
        )
        notes = st.text_area("Notes", run.notes, max_chars=NOTES_MAX, key="edit_notes")
        archived = st.checkbox(
            "Archived", run.archived, help="Off the list of runs.", key="edit_archived"
        )
        if st.form_submit_button("Save", type="primary"):
            _save(run, changes_of(run, name, tags, notes, archived=archived))


def changes_of(
    run: RunDetail, name: str, tags: str, notes: str, *, archived: bool
) -> dict[str, Any]:
    """Return what to send: the fields that differ from the run's."""
    listed = tuple(dict.fromkeys(tag for each in tags.split(",") if (tag := each.strip())))
    wanted = {
        "name": name.strip(),
        "tags": listed,
        "notes": notes,
        "archived": archived,
    }
    changes = {field: value for field, value in wanted.items() if value != getattr(run, field)}
    if changes.get("name") == "":
        changes["name"] = None
    return changes


def _save(run: RunDetail, changes: dict[str, Any]) -> None:
    if changes:
        try:
            client().change(run.id, changes)
        except Problem as problem:
            st.error(f"Nothing is saved: {plain(problem.text)}")
            return
    st.rerun()
