"""One thread for each channel: it compares, claims, delivers and records.

Start at `ChannelWorker.run_once`; the app uses `Notifier` alone.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from time import time as wall_clock
from typing import Final, Protocol

import msgspec
import sqlalchemy as sa

from trainvitals_server.notification_settings import NotificationSettings, Silence
from trainvitals_server.notifications.channels import DeliveryFailed, Send, sender
from trainvitals_server.notifications.message import (
    TEST_SUMMARY,
    Message,
    delivered,
    message_of,
)
from trainvitals_server.notifications.plan import RECENT_S, Change, plan
from trainvitals_server.store import notifications as table
from trainvitals_server.store import silences
from trainvitals_server.store.database import Database

log = logging.getLogger(__name__)

INTERVAL_S: Final = 2.0
ATTEMPTS_MAX: Final = 8
"""After this number of failed attempts, over about 20 minutes, a message is given up."""
RETRY_S: Final = 5.0
RETRY_S_MAX: Final = 600.0
AT_ONCE: Final = 1
"""Messages that are claimed at a time: a claim must outlast the delivery of all of them."""


TEST_EVERY_S: Final = 10.0
"""Shortest time between two tests of a channel."""


class TooSoon(Exception):  # noqa: N818 - a state; the test can be repeated later
    """The channel was tested less than TEST_EVERY_S ago; `wait_s` is the rest."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"The channel was tested just now. Wait {wait_s:.0f} s.")
        self.wait_s = wait_s


class NotifierStore(Protocol):
    """The part of the store that notifications use."""

    @property
    def database(self) -> Database: ...


def as_setting(silence: silences.StoredSilence) -> Silence:
    """Return a silence of the database in the form of the configured ones."""
    patterns = silence.patterns
    return Silence(
        projects=patterns.projects,
        runs=patterns.runs,
        rules=patterns.rules,
        until=datetime.fromtimestamp(silence.until, UTC),
    )


def retry_wait_s(attempts: int) -> float:
    """Return the seconds to wait after the `attempts`-th failed attempt, counted from 1."""
    return min(RETRY_S_MAX, RETRY_S * 2.0 ** (attempts - 1))


@dataclass(frozen=True)
class Health:
    """The newest attempts of one channel since the start of this collector."""

    sent_at: float | None = None
    failed_at: float | None = None
    error: str = ""
    """Why the newest failed attempt failed; without the address and the key."""


class ChannelWorker:
    """Delivers the messages of one channel."""

    def __init__(
        self,
        name: str,
        database: Database,
        settings: NotificationSettings,
        send: Send,
        count: Callable[[str, str], None],
        *,
        now: Callable[[], float] = wall_clock,
    ) -> None:
        self._name = name
        self._database = database
        self._settings = settings
        self._send = send
        self._count = count
        self._now = now
        self.health = Health()

    def run_once(self, is_stopping: Callable[[], bool] = lambda: False) -> int:
        """Create the messages that are due and deliver them; return the number of delivered
        messages."""
        self._compare()
        done = 0
        while not is_stopping():
            now = self._now()
            if not self._has_due(now):
                return done
            claimed = self._database.write(
                partial(table.claim, channel=self._name, now=now, limit=AT_ONCE)
            )
            if not claimed:
                return done  # another collector has claimed it
            done += sum(self._deliver(delivery) for delivery in claimed)
        return done

    def _compare(self) -> None:
        now = self._now()
        with self._database.read() as connection:
            held = table.conditions(connection, now - RECENT_S)
            sent = table.sent(connection, self._name, sorted({c.run_pk for c in held}))
            added = map(as_setting, silences.held(connection, now))
        silenced = {"silences": (*self._settings.silences, *added)}
        changes = plan(held, sent, self._settings.model_copy(update=silenced), self._name, now)
        if len(held) >= table.CONDITIONS_MAX:
            # Conditions over the limit were not read: they may still hold.
            changes = [change for change in changes if change.condition is not None]
        if changes:
            self._database.write(lambda connection: self._write(connection, changes, sent, now))

    def _write(
        self,
        connection: sa.Connection,
        changes: list[Change],
        sent: Mapping[table.Key, table.Sent],
        now: float,
    ) -> None:
        for change in changes:
            if change.condition is None:
                pending = "resolved" if change.action == "resolve" else ""
                before = sent[change.key]
                table.change_row(connection, before, is_open=False, pending=pending, now=now)
                continue
            message = message_of(change.condition, self._settings.dashboard_url)
            body = msgspec.msgpack.encode(message)
            if change.action == "open":
                table.open_row(connection, self._name, change.key, body, now)
            else:
                before = sent[change.key]
                table.change_row(
                    connection, before, is_open=True, pending="opened", now=now, message=body
                )

    def _has_due(self, now: float) -> bool:
        with self._database.read() as connection:
            return table.is_due(connection, self._name, now)

    def _deliver(self, delivery: table.Delivery) -> bool:
        failure = None
        try:
            self._send(delivered(delivery))
        except DeliveryFailed as failed:
            failure = str(failed)
        attempts, retry_at = delivery.attempts + 1, None
        if failure is not None and attempts < ATTEMPTS_MAX:
            retry_at = self._now() + retry_wait_s(attempts)
        self._database.write(
            lambda connection: table.finish(
                connection,
                delivery,
                is_delivered=failure is None,
                retry_at=retry_at,
                now=self._now(),
            )
        )
        if failure is None:
            self.health = replace(self.health, sent_at=self._now())
            self._count(self._name, "sent")
            return True
        self.health = replace(self.health, failed_at=self._now(), error=failure)
        self._count(self._name, "failed" if retry_at else "given_up")
        log.warning(
            "Channel %s, attempt %d: %s. %s",
            self._name,
            attempts,
            failure,
            "It is repeated later." if retry_at else "The message is given up.",
        )
        return False


class Notifier:
    """The threads of all channels."""

    def __init__(
        self,
        store: NotifierStore,
        settings: NotificationSettings,
        *,
        interval_s: float = INTERVAL_S,
        now: Callable[[], float] = wall_clock,
    ) -> None:
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._stopping = threading.Event()
        routed = {name for route in settings.routes for name in route.channels}
        self._workers = {
            name: ChannelWorker(
                name, store.database, settings, sender(channel), self._count, now=now
            )
            for name, channel in settings.channels.items()
            if name in routed
        }
        self._threads: list[threading.Thread] = []
        self._now = now
        self._senders = {name: sender(channel) for name, channel in settings.channels.items()}
        self._tested: dict[str, float] = {}

    def start(self) -> None:
        """Start the threads; without routes there are none."""
        for name, worker in self._workers.items():
            thread = threading.Thread(
                target=self._loop, args=(worker,), name=f"notify-{name}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def stop(self, deadline_s: float = 2.0) -> None:
        """Stop after the attempts in progress, or at the deadline.

        A message whose attempt is cut off stays claimed and is repeated after the claim ends.
        """
        self._stopping.set()
        for thread in self._threads:
            thread.join(deadline_s)

    def counts(self) -> dict[tuple[str, str], int]:
        """Return (channel, outcome) → number of attempts since the start."""
        with self._lock:
            return dict(self._counts)

    def health(self, channel: str) -> Health:
        """Return the newest attempts of a channel; nothing of one without a route."""
        worker = self._workers.get(channel)
        return Health() if worker is None else worker.health

    def test(self, channel: str) -> str:
        """Send a test message to a channel now; return what the receiver answered.

        Raises:
            KeyError: there is no such channel.
            TooSoon: it was tested less than TEST_EVERY_S ago.
            DeliveryFailed: it was not delivered; the text has neither the address nor the key.
        """
        send, now = self._senders[channel], self._now()
        with self._lock:
            wait_s = self._tested.get(channel, -TEST_EVERY_S) + TEST_EVERY_S - now
            if wait_s > 0:
                raise TooSoon(wait_s)
            self._tested[channel] = now
        return send(Message(event="test", summary=TEST_SUMMARY))

    def _count(self, channel: str, outcome: str) -> None:
        with self._lock:
            self._counts[channel, outcome] += 1

    def _loop(self, worker: ChannelWorker) -> None:
        while not self._stopping.is_set():
            try:
                worker.run_once(self._stopping.is_set)
            except Exception:
                # The thread must continue after a restart of the database.
                if not self._stopping.is_set():
                    log.exception("Notifications failed; the next attempt follows in 2 s.")
            self._stopping.wait(self._interval_s)
