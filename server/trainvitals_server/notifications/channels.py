"""Deliver one message through Apprise or to a signed webhook.

Promise: a failure is a `DeliveryFailed` whose text contains neither the address nor the key.
"""

from __future__ import annotations

import http.client
import importlib
import urllib.error
import urllib.request
from collections.abc import Callable
from time import time as wall_clock
from typing import Any, Final

import msgspec

from trainvitals_server.notification_settings import Channel
from trainvitals_server.notifications.message import (
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    Message,
    signature,
)

TIMEOUT_S: Final = 10.0

Send = Callable[[Message], str]
"""Delivers a message and returns what the receiver answered; raises DeliveryFailed."""


class DeliveryFailed(Exception):  # noqa: N818 - the outcome of an attempt
    """The message was not delivered; the text says why."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET without a body, at an address that is not in the
    settings."""

    def redirect_request(self, *_: Any) -> None:
        """Refuse the redirect: the response is then an error."""


def sender(channel: Channel) -> Send:
    """Return the function that delivers to `channel`."""
    deliver = _post if channel.is_webhook else _apprise

    def send(message: Message) -> str:
        try:
            address, key = channel.address, channel.signing_key
        except OSError as error:
            raise DeliveryFailed(f"its file cannot be read: {error.strerror}") from None
        return deliver(address, key, message)

    return send


def _post(address: str, key: str, message: Message) -> str:
    body, timestamp = msgspec.json.encode(message), int(wall_clock())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "trainvitals",
        TIMESTAMP_HEADER: str(timestamp),
        SIGNATURE_HEADER: signature(key, timestamp, body),
    }
    # The settings accept http:// and https:// only.
    request = urllib.request.Request(address, body, headers)  # noqa: S310
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=TIMEOUT_S) as reply:
            return f"the webhook answered {reply.status}"
    except urllib.error.HTTPError as error:
        with error:
            raise DeliveryFailed(f"the webhook answered {error.code}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        # `from None`: the text of the cause can contain the address.
        raise DeliveryFailed(f"the webhook is not reachable: {type(error).__name__}") from None


def _apprise(address: str, _key: str, message: Message) -> str:
    try:
        apprise = importlib.import_module("apprise")
    except ImportError:
        raise DeliveryFailed(
            "Apprise is not installed: pip install 'trainvitals[notify]'"
        ) from None
    receivers = apprise.Apprise()
    if not receivers.add(address):
        raise DeliveryFailed("Apprise does not know this form of address")
    try:
        is_sent = receivers.notify(
            title=message.title, body=message.text, body_format=apprise.NotifyFormat.TEXT
        )
    except Exception as error:  # noqa: BLE001 - of any of Apprise's plugins
        raise DeliveryFailed(f"Apprise failed: {type(error).__name__}") from None
    if not is_sent:
        raise DeliveryFailed("Apprise reports that the receiver did not accept the message")
    return "Apprise reports that the receiver accepted the message"
