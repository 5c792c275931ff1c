"""The text and the JSON of a message."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final
from urllib.parse import quote

import msgspec

from trainvitals_server.store.notifications import Condition, Delivery

VERSION: Final = 1
TEST_SUMMARY: Final = "The channel works."
SUMMARY_MAX: Final = 500
"""Characters of a finding's summary in a message."""
TIMESTAMP_HEADER: Final = "X-Trainvitals-Timestamp"
SIGNATURE_HEADER: Final = "X-Trainvitals-Signature"


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message, as a webhook receives it in JSON."""

    version: int = VERSION
    event: str
    """opened | resolved | test"""
    id: str = ""
    """The same for all attempts of one delivery: a receiver can recognise repeats."""
    project: str = ""
    run: str = ""
    rule: str = ""
    """The rule's name, run_lost or run_failed."""
    severity: str = ""
    places: int = 0
    """Number of open findings when the message became due."""
    since_step: int = 0
    summary: str = ""
    url: str = ""
    """The run's page in the dashboard; "" when its address is not set."""

    @property
    def title(self) -> str:
        """One line."""
        if self.event == "test":
            return "trainvitals: test message"
        state = "resolved" if self.event == "resolved" else self.severity
        return f"[{state}] {self.run} ({self.project}): {self.rule}"

    @property
    def text(self) -> str:
        """A plain text of a few lines."""
        lines = [self.summary]
        if self.places > 1:
            lines.append(f"{self.places} places, from step {self.since_step}.")
        if self.event == "resolved":
            lines.insert(0, "No longer holds:")
        return "\n".join([*lines, *([self.url] if self.url else [])])


def message_of(condition: Condition, dashboard_url: str) -> Message:
    """Return the message that `condition` holds."""
    summary = condition.summary
    if len(summary) > SUMMARY_MAX:
        summary = summary[: SUMMARY_MAX - 1] + "…"
    base = dashboard_url.rstrip("/")
    return Message(
        event="opened",
        project=condition.project,
        run=condition.run,
        rule=condition.rule,
        severity=condition.severity,
        places=condition.places,
        since_step=condition.since_step,
        summary=summary,
        url=f"{base}/run?run={quote(condition.run, safe='')}" if base else "",
    )


def delivered(delivery: Delivery) -> Message:
    """Return the message of a claimed delivery."""
    stored = msgspec.msgpack.decode(delivery.message, type=Message)
    identity = f"{delivery.pk}-{int(delivery.opened_at * 1000)}-{delivery.event}"
    return msgspec.structs.replace(stored, event=delivery.event, id=identity)


def signature(key: str, timestamp: int, body: bytes) -> str:
    """Return the value of the signature header: v1= and the hexadecimal HMAC-SHA256.

    It is taken over the timestamp in decimal digits, a full stop, and the body.
    """
    signed = str(timestamp).encode() + b"." + body
    return "v1=" + hmac.new(key.encode(), signed, hashlib.sha256).hexdigest()
