"""Change a run: name, tags, notes, archived. Shown to visitors whose token may do so."""

from __future__ import annotations

import zlib
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
    # New keys for another run, and after a change by someone else: a widget keeps what it shows for
    # as long as it keeps its key, and Save would bring the old values back.
    shown = repr((run.id, run.name, run.tags, run.notes, run.archived))
    key = f"{zlib.crc32(shown.encode(errors='replace')):08x}"
    with st.popover("Edit", icon=":material/edit:"), st.form(f"edit_{key}", border=False):
        name = st.text_input(
            "Name",
            run.name,
            max_chars=NAME_MAX,
            help="Empty: the name that the training reported.",
            key=f"edit_name_{key}",
        )
        tags = st.text_input(
            "Tags",
            tags_text(run),
            help="Separated by commas. Runs with the tag keep are never removed.",
            key=f"edit_tags_{key}",
        )
        notes = st.text_area("Notes", run.notes, max_chars=NOTES_MAX, key=f"edit_notes_{key}")
        archived = st.checkbox(
            "Archived",
            run.archived,
            help="Removed from the list of runs.",
            key=f"edit_archived_{key}",
        )
        if st.form_submit_button("Save", type="primary"):
            _save(run, changes_of(run, name, tags, notes, archived=archived))


def tags_text(run: RunDetail) -> str:
    """Return the tags of a run as the form shows them."""
    return ", ".join(run.tags)


def changes_of(
    run: RunDetail, name: str, tags: str, notes: str, *, archived: bool
) -> dict[str, Any]:
    """Return what to send: the fields that differ from what the form showed.

    Tags are compared as text: a tag of the training may contain a comma or a space at its end,
    and reading the text back would change it.
    """
    listed = tuple(dict.fromkeys(tag for each in tags.split(",") if (tag := each.strip())))
    wanted = {
        "name": name.strip(),
        "tags": listed,
        "notes": notes,
        "archived": archived,
    }
    changes = {field: value for field, value in wanted.items() if value != getattr(run, field)}
    if tags == tags_text(run):
        changes.pop("tags", None)
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
