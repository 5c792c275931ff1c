"""The routes that change a run: name, tags, notes, archived; delete and undelete.

A name and tags that are set here stay when the training reports others; `null` returns to those
that it reported. Each change leaves an event of the kind run_changed in the run.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from trainvitals.api import schema
from trainvitals_server.auth import Principal, Scope, ScopedRouter, allow
from trainvitals_server.problems import Problem
from trainvitals_server.query.responses import described, json_response, store_of
from trainvitals_server.query.routes import RunName, run_of
from trainvitals_server.settings import Settings
from trainvitals_server.store import RequestRefused
from trainvitals_server.store.ingest import qualified

routes = ScopedRouter(prefix="/api/v1", tags=["runs"])

Admin = Annotated[Principal, allow(Scope.ADMIN)]
_LINE = r"^[^\x00-\x1f\x7f]*$"
_DAY_S = 86_400

Tag = Annotated[str, Field(min_length=1, max_length=64, pattern=_LINE)]


class RunChanges(BaseModel):
    """What to change. A field that is not sent is not changed."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        pattern=_LINE,
        description="The name that is shown; null: the one that the training reported.",
    )
    tags: list[Tag] | None = Field(
        default=None,
        max_length=50,
        description="All tags; null: those that the training reported.",
    )
    notes: str | None = Field(
        default=None,
        max_length=10_000,
        pattern=r"^[^\x00]*$",
        description="Free text, as Markdown; null or empty: none.",
    )
    archived: bool = Field(default=False, description="Whether the list of runs omits it.")


@routes.patch("/runs/{run}", **described(schema.RunDetail, "malformed", "unknown_run", "disk_full"))
def change(request: Request, principal: Admin, run: RunName, wanted: RunChanges) -> Response:
    """Change the name, tags or notes of a run, or archive it; return the run."""
    stored = run_of(request, principal, run)
    store = store_of(request)
    changes = wanted.model_dump(exclude_unset=True)
    if changes.get("tags") is not None:
        changes["tags"] = tuple(dict.fromkeys(changes["tags"]))
    try:
        store.edit(stored.pk, changes, principal.token_id)
    except RequestRefused as refused:
        raise Problem(refused.reason, str(refused)) from refused
    return json_response(store.detail(run_of(request, principal, run)))


@routes.delete("/runs/{run}", **described(schema.Deleted, "unknown_run", "disk_full"))
def delete(
    request: Request,
    principal: Admin,
    run: RunName,
    now: Annotated[bool, Query(description="Delete it permanently.")] = False,
) -> Response:
    """Move a run to the bin. It is unknown at once; `undelete` can restore it for some days.

    Then, or with `now`, all its data is removed. Later batches of its processes are refused
    (run_deleted); a new start under this id begins a new run.
    """
    summary = run_of(request, principal, run)
    store = store_of(request)
    if now:
        store.delete(summary.pk)
        return json_response(schema.Deleted(summary.run.id))
    at = store.put_into_bin(summary.pk, principal.token_id)
    settings: Settings = request.app.state.settings
    until = at + settings.retain_deleted_days * _DAY_S
    return json_response(schema.Deleted(summary.run.id, until))


@routes.post(
    "/runs/{run}/undelete", **described(schema.RunDetail, "unknown_run", "run_exists", "disk_full")
)
def undelete(request: Request, principal: Admin, run: RunName) -> Response:
    """Restore the run that was deleted last under this id; return it."""
    store = store_of(request)
    names = [run] if principal.project is None else [qualified(principal.project, run), run]
    found = [] if "\x00" in run else [key for name in names for key in store.in_bin(name)]
    mine = [pk for pk, project in found if principal.sees(project)]
    if not mine:
        raise Problem("unknown_run", "No run with this id is in the bin.")
    try:
        store.bring_back(mine[0], principal.token_id)
    except RequestRefused as refused:
        raise Problem(refused.reason, str(refused)) from refused
    back = store.run_by_key(mine[0])
    if back is None:  # another request deleted it in between
        raise Problem("unknown_run", "No run with this id is in the bin.")
    return json_response(store.detail(back))
