"""A finding that is resolved and opens again is stored as two episodes."""

import sqlalchemy as sa

from helpers.batches import batch, diagnosis, ingest, start
from trainvitals.api.schema import Finding, Severity, State
from trainvitals_server.store.models import FindingRow


def _spike(since_step: int, state: State) -> Finding:
    return Finding(
        rule="loss_spike",
        code="TV504",
        severity=Severity.WARNING,
        since_step=since_step,
        state=state,
        summary="A spike.",
    )


def _rows(store):
    wanted = sa.select(FindingRow.episode, FindingRow.since_step, FindingRow.state)
    with store.database.read() as connection:
        return [tuple(row) for row in connection.execute(wanted.order_by(FindingRow.episode))]


def test_a_finding_that_opens_again_is_a_second_row_and_both_are_read_back(store):
    ingest(store, batch(start()))
    run = store.run("r").pk
    first = _spike(10, State.RESOLVED)
    store.save_diagnosis(run, diagnosis([first], health=1.0, step=99))
    again = _spike(90, State.OPEN)
    # An open finding ranks before a resolved one; episodes are numbered by their first step.
    store.save_diagnosis(run, diagnosis([again, first], health=0.7, step=99))
    assert store.findings(run) == [again, first]
    assert _rows(store) == [(0, 10, "resolved"), (1, 90, "open")]


def test_the_first_episode_keeps_the_time_it_was_opened(store, monkeypatch):
    ingest(store, batch(start()))
    run = store.run("r").pk
    first = _spike(10, State.RESOLVED)
    monkeypatch.setattr(store, "_clock", lambda: 100.0)
    store.save_diagnosis(run, diagnosis([first], health=1.0, step=99))
    monkeypatch.setattr(store, "_clock", lambda: 200.0)
    store.save_diagnosis(run, diagnosis([_spike(90, State.OPEN), first], health=0.7, step=99))
    opened = sa.select(FindingRow.opened_at).order_by(FindingRow.episode)
    with store.database.read() as connection:
        assert list(connection.scalars(opened)) == [100.0, 200.0]
