"""The collector serves the configured host names, and never two Host headers."""

import anyio
import pytest

from trainvitals_server.hosts import HostAllowList, host_name

LOCAL = frozenset({"localhost", "[::1]"})


def status_of(*hosts, allowed=LOCAL):
    """Return the status of a request with these Host headers; the app itself answers 200."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "headers": [(b"host", host) for host in hosts]}
    anyio.run(HostAllowList(app, allowed), scope, None, send)
    return sent[0]["status"]


@pytest.mark.parametrize("host", [b"localhost", b"LOCALHOST:8484", b"localhost:", b"[::1]:8484"])
def test_an_allowed_name_is_served_with_any_port(host):
    assert status_of(host) == 200


@pytest.mark.parametrize("host", [b"evil.example", b"localhost:80:1", b"localhost:x", b"[::1", b""])
def test_any_other_host_header_is_refused(host):
    assert status_of(host) == 400


def test_a_request_without_a_host_header_is_refused_only_where_names_are_listed():
    assert status_of() == 400
    assert status_of(allowed=frozenset()) == 200


@pytest.mark.parametrize("allowed", [LOCAL, frozenset()])
@pytest.mark.parametrize(
    "hosts", [(b"localhost", b"evil.example"), (b"evil.example", b"localhost")]
)
def test_two_host_headers_are_refused_in_either_order(hosts, allowed):
    assert status_of(*hosts, allowed=allowed) == 400


def test_a_name_is_read_without_its_port():
    assert host_name(b"Trainer.Example:8484") == "trainer.example"
    assert host_name(b"[2001:DB8::1]:80") == "[2001:db8::1]"
