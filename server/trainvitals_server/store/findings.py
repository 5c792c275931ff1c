"""Load and save the findings of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from trainvitals.api.schema import Diagnosis, Finding, Severity, State
from trainvitals_server.store.models import FindingRow, Run

_decoder = msgspec.msgpack.Decoder(Finding)
PLACE_MAX = 512
RUNS_AT_ONCE = 500


def load(connection: sa.Connection, run_pk: int) -> list[Finding]:
    """Return a run's findings in the order in which they were saved."""
    wanted = sa.select(FindingRow.finding).where(FindingRow.run_pk == run_pk)
    blobs = connection.scalars(wanted.order_by(FindingRow.position))
    return [_decoder.decode(blob) for blob in blobs]


def open_counts(
    connection: sa.Connection, run_pks: Sequence[int]
) -> dict[int, dict[tuple[str, str], int]]:
    """Return run → (rule, severity) → number of open findings; runs without any are absent."""
    row = FindingRow
    counts: dict[int, dict[tuple[str, str], int]] = {}
    newest: dict[str, int] = {}
    for i in range(0, len(run_pks), RUNS_AT_ONCE):
        wanted = (
            sa.select(row.run_pk, row.code, row.severity, sa.func.count(), sa.func.max(row.pk))
            .where(row.run_pk.in_(run_pks[i : i + RUNS_AT_ONCE]), row.state == str(State.OPEN))
            .group_by(row.run_pk, row.code, row.severity)
        )
        for run_pk, code, severity, count, pk in connection.execute(wanted):
            counts.setdefault(run_pk, {})[code, severity] = count
            newest[code] = pk
    # The rule's name is in the finding alone: decode one finding of each rule.
    blobs = sa.select(row.code, row.finding).where(row.pk.in_(newest.values()))
    names = {code: _decoder.decode(blob).rule for code, blob in connection.execute(blobs)}
    by_rule: dict[int, dict[tuple[str, str], int]] = {}
    for run_pk, of in counts.items():
        named = by_rule[run_pk] = {}
        for (code, severity), count in of.items():
            key = names[code], severity
            named[key] = named.get(key, 0) + count
    return by_rule


def save(connection: sa.Connection, run_pk: int, diagnosis: Diagnosis, *, now: float) -> None:
    """Store a run's diagnosis; a finding of a known episode keeps its `opened_at`."""
    known: dict[tuple[str, str, int], tuple[int, bytes, int]] = {
        (row.code, row.place, row.episode): (row.pk, row.finding, row.position)
        for row in connection.execute(sa.select(FindingRow).where(FindingRow.run_pk == run_pk))
    }
    fresh: list[dict[str, Any]] = []
    for (code, place, episode), position, finding in _episodes(diagnosis.findings):
        values = {
            "position": position,
            "severity": str(finding.severity),
            "state": str(finding.state),
            "since_step": finding.since_step,
            "finding": msgspec.msgpack.encode(finding),
        }
        row = known.pop((code, place, episode), None)
        if row is None:
            identity = {"run_pk": run_pk, "code": code, "place": place, "episode": episode}
            fresh.append({**identity, **values, "opened_at": now})
        elif row[1:] != (values["finding"], position):
            change = sa.update(FindingRow).where(FindingRow.pk == row[0])
            connection.execute(change.values(values))
    if known:
        removed = [pk for pk, _, _ in known.values()]
        connection.execute(sa.delete(FindingRow).where(FindingRow.pk.in_(removed)))
    if fresh:
        connection.execute(sa.insert(FindingRow), fresh)
    connection.execute(sa.update(Run).where(Run.pk == run_pk).values(_summary(diagnosis)))


def _episodes(
    findings: Sequence[Finding],
) -> list[tuple[tuple[str, str, int], int, Finding]]:
    """Return ((code, place, episode), position, finding); episodes are numbered by first step."""
    count: dict[tuple[str, str], int] = {}
    episodes = []
    for position, finding in sorted(enumerate(findings), key=lambda item: item[1].since_step):
        key = (finding.code, finding.where.replace("\x00", "\ufffd")[:PLACE_MAX])
        episode = count.get(key, 0)
        count[key] = episode + 1
        episodes.append(((*key, episode), position, finding))
    return episodes


def _summary(diagnosis: Diagnosis) -> dict[str, Any]:
    headline, count = diagnosis.headline, dict.fromkeys(Severity, 0)
    for finding in diagnosis.open:
        count[finding.severity] += 1
    return {
        "verdict": str(diagnosis.verdict),
        "blind": msgspec.msgpack.encode(diagnosis.blind),
        "health": diagnosis.health,
        "diagnosed_step": diagnosis.step,
        "error_count": count[Severity.ERROR],
        "warning_count": count[Severity.WARNING],
        "info_count": count[Severity.INFO],
        "headline": msgspec.msgpack.encode(headline) if headline else None,
        "changes": Run.changes + 1,
    }
