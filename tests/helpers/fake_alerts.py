"""Alerts, notifications and settings, as the query API tells them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from helpers.fake_findings import finding_of
from helpers.fake_runs import HOSTILE, FakeRun, run_of

RANK = {"info": 0, "warning": 1, "error": 2}
NO_NOTIFICATIONS: dict[str, Any] = {
    "channels": [],
    "routes": [],
    "silences": [],
    "cooldown_s": 3600.0,
    "notices": [],
}
SETTINGS: dict[str, Any] = {
    "viewer": {"id": "0123abc", "scope": "read", "project": None},
    "settings": [
        {
            "name": name,
            "environment": f"TRAINVITALS_{name.upper()}",
            "description": description,
            "value": value,
            "default": default,
            "is_set": is_set,
        }
        for name, description, value, default, is_set in (
            ("database_url", "sqlite:///PATH or postgresql://…", None, None, True),
            ("tls_key", "PEM file of its key.", None, None, False),
            ("body_bytes_max", "Bytes of a request, as sent.", "2097152", "2097152", False),
            ("series_max", "Series of all running runs.", "100000", "2000000", True),
            ("port", "Port to listen at.", "41007", "8321", True),
            ("retain_total_bytes", "Bytes of all runs.", "0", "0", False),
            ("round_interval_s", "Seconds between rounds.", "1.0", "1", False),
            ("retain_ended_days", "Days after which an ended run is removed.", "30.0", "0", True),
            ("lost_after_s", "Seconds of silence until lost.", "60.0", "60.0", False),
            ("metrics_scalars", "Names of logged scalars to export.", "", "", False),
            ("notifications", "Channels, routes and silences.", None, None, True),
        )
    ],
    "thresholds": {"dead_relu": {"dead_share_error": 0.95}},
}


def notice(run: str, rule: str, **fields: Any) -> dict[str, Any]:
    now = time.time()
    return {
        "run": run,
        "project": "vision",
        "rule": rule,
        "channel": "team",
        "event": "opened",
        "state": "delivered",
        "opened_at": now - 130,
        "at": now - 125,
        "attempts": 0,
        **fields,
    }


def notifications(*notices: dict[str, Any]) -> dict[str, Any]:
    """Return two channels, one with an error, two silences, and these notices."""
    now = time.time()
    known = {"resolved": True, "is_routed": True, "sent_at": None, "failed_at": None, "error": ""}
    pager = {"failed_at": now - 70, "error": "the webhook answered 503"}
    return {
        **NO_NOTIFICATIONS,
        "channels": [
            {**known, "name": "team", "kind": "apprise", "sent_at": now - 125},
            {**known, "name": "pager", "kind": "webhook", **pager},
            {**known, "name": "spare", "kind": "webhook", "is_routed": False},
        ],
        "silences": [
            {"projects": ["sandbox"], "runs": ["*"], "rules": ["*"], "until": None},
            {"projects": ["*"], "runs": ["old-*"], "rules": ["dead_relu"], "until": now + 7_300},
        ],
        "notices": list(notices),
    }


def hostile_notifications() -> dict[str, Any]:
    """Return a notice about a run and a rule, and a silence, that are named as an attack."""
    said = notifications(notice(HOSTILE, HOSTILE))
    named = {"projects": [HOSTILE], "runs": [HOSTILE], "rules": [HOSTILE]}
    said["silences"] = [{**named, "id": "1", "reason": HOSTILE, "by": HOSTILE}]
    return said


def alerts_of(
    runs: Sequence[FakeRun], query: dict[str, list[str]], notices: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return the open findings of `runs` by run and rule, running runs first."""
    lowest = RANK[query.get("severity", ["warning"])[0]]
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for run in sorted(runs, key=lambda run: run.state != "running"):
        if run.state != query.get("state", [run.state])[0]:
            continue
        for finding in map(finding_of, run.findings):
            if finding["state"] != "open" or RANK[finding["severity"]] < lowest:
                continue
            key = (run.id, finding["rule"])
            if key in found:
                found[key]["places"] += 1
                continue
            about = run_of(run)
            found[key] = {
                **{n: about[n] for n in ("project", "name", "state", "last_report_at")},
                "run": run.id,
                **{n: finding[n] for n in ("rule", "code", "severity", "where", "summary")},
                "explained_by": finding["explained_by"],
                "places": 1,
                "since_step": finding["since_step"],
                "opened_at": time.time() - 200,
                "notices": [n for n in notices if (n["run"], n["rule"]) == key],
            }
    return {"alerts": list(found.values()), "more": False}
