"""Slow, silent and greedy clients are cut off, and honest ones do not notice them."""

import contextlib
import http.client
import socket
import threading
import time

import pytest

from helpers.batches import batch, start
from helpers.collector import running_collector
from trainvitals.wire import CONTENT_TYPE, encode
from trainvitals_server.auth import Scope
from trainvitals_server.connections import BoundedProtocol
from trainvitals_server.store import Store

DEADLINE_S = 2.0


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    home = tmp_path_factory.mktemp("slow")
    with running_collector(home, request_deadline_s=DEADLINE_S) as collector:
        yield collector


@contextlib.contextmanager
def connections(collector, count):
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", collector.settings.port)
        yield [
            stack.enter_context(socket.create_connection(address, timeout=10)) for _ in range(count)
        ]


def closed_after(connection, began) -> tuple[float, bytes]:
    """Return the seconds from `began` until the collector closes, and what it sent before."""
    got = b""
    connection.settimeout(10)
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            got += part
    return time.monotonic() - began, got


def one_answer(connection) -> bytes:
    """Return an answer whose body is one JSON object, which may arrive in parts."""
    got = b""
    while not got.endswith(b"}"):
        part = connection.recv(65536)
        assert part, f"closed after {got!r}"
        got += part
    return got


def post(collector, **headers) -> bytes:
    lines = {
        "Host": "localhost",
        "Content-Type": CONTENT_TYPE,
        "Authorization": f"Bearer {collector.token}",
        **headers,
    }
    shown = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST /api/v1/ingest HTTP/1.1\r\n{shown}\r\n".encode()


def honest_times(collector, count) -> list[float]:
    """Return the seconds of `count` requests on one connection; each must succeed."""
    client = http.client.HTTPConnection("127.0.0.1", collector.settings.port, timeout=10)
    times = []
    for _ in range(count):
        began = time.perf_counter()
        client.request("GET", "/readyz", headers=collector.headers)
        answer = client.getresponse()
        answer.read()
        assert answer.status == 200
        times.append(time.perf_counter() - began)
    client.close()
    return times


def outcomes(collector):
    return collector.app.state.ingest_counters.read().requests


def test_silent_connections_take_no_honest_requests_place(running):
    began = time.monotonic()
    with connections(running, 300) as silent:
        assert len(honest_times(running, 40)) == 40
        seconds, got = closed_after(silent[0], began)
        assert seconds <= DEADLINE_S + 1
        assert got == b""


def test_500_slow_clients_do_not_delay_honest_ones(running):
    began = time.monotonic()
    with connections(running, 500) as slow:
        for i, connection in enumerate(slow):
            head = post(running, **{"Content-Length": "100000"})
            connection.sendall(head + b"TVB" if i % 2 else head[:-2])
        times = sorted(honest_times(running, 200))
        assert times[197] < 0.1, f"p99 {times[197]:.3f} s"
        for connection in slow:
            with contextlib.suppress(OSError):
                connection.sendall(b"x")
        last = [closed_after(connection, began) for connection in slow]
    # The last connection was accepted some time after `began`.
    assert max(seconds for seconds, _ in last) < DEADLINE_S + 2.5
    answered = [got.split(b"\r\n")[0] for _, got in last if got]
    assert set(answered) == {b"HTTP/1.1 408 ", b"HTTP/1.1 408 Request Timeout"}


def test_headers_that_drip_end_at_the_deadline(running):
    before = outcomes(running).get("timeout", 0)
    with connections(running, 1) as [connection]:
        began = time.monotonic()
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        with contextlib.suppress(OSError):
            while time.monotonic() - began < DEADLINE_S + 3:
                connection.sendall(b"X: y\r\n")
                time.sleep(0.1)
        assert time.monotonic() - began < DEADLINE_S + 1.5
    assert outcomes(running)["timeout"] > before


def test_a_build_without_a_deadline_for_headers_is_found(running, monkeypatch):
    monkeypatch.setattr(BoundedProtocol, "_start_deadline", lambda _: None)
    with pytest.raises(AssertionError):
        test_headers_that_drip_end_at_the_deadline(running)


def test_a_second_request_has_a_deadline_of_its_own(running):
    with connections(running, 1) as [connection]:
        whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        connection.sendall(whole)
        assert b" 200 " in one_answer(connection)
        time.sleep(DEADLINE_S + 0.5)
        connection.sendall(whole)
        assert b" 200 " in one_answer(connection), "an idle connection stays open"
        connection.sendall(whole[:20])
        seconds, _ = closed_after(connection, time.monotonic())
        assert DEADLINE_S - 0.5 < seconds < DEADLINE_S + 1


@pytest.mark.parametrize("shape", ["one header", "many headers", "address"])
def test_headers_beyond_8_KiB_are_refused_before_they_are_stored(running, shape):
    text = {
        "one header": b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 100_000,
        "many headers": b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
        "address": b"GET /" + b"a" * 100_000,
    }[shape]
    with connections(running, 1) as [connection]:
        with contextlib.suppress(OSError):
            connection.sendall(text)
        seconds, got = closed_after(connection, time.monotonic())
    assert seconds < 1
    # A client that is still sending may lose the answer.
    assert got == b"" or (got.startswith(b"HTTP/1.1 431 ") and b'"headers_too_large"' in got)


def test_headers_within_the_limit_and_a_whole_body_in_one_piece_are_read(running):
    body = encode(batch(start(config={"text": "x" * 100_000})))
    head = post(running, **{"Content-Length": str(len(body)), "X": "a" * 7000})
    with connections(running, 1) as [connection]:
        connection.sendall(head + body)
        assert b" 200 " in connection.recv(65536).split(b"\r\n")[0]


def test_trailers_of_a_chunked_body_are_limited(tmp_path):
    with running_collector(tmp_path, body_bytes_max=10_000) as collector:
        head = post(collector, **{"Transfer-Encoding": "chunked"})
        with connections(collector, 1) as [connection]:
            began = time.monotonic()
            with contextlib.suppress(OSError):
                connection.sendall(head + b"0\r\n")
                for _ in range(1000):
                    connection.sendall(b"X: " + b"a" * 10_000 + b"\r\n")
            seconds, got = closed_after(connection, began)
            assert seconds < 5
            assert got == b"" or got.startswith(b"HTTP/1.1 413 ")


def test_more_connections_than_files_close_the_ones_that_wait_longest(tmp_path):
    with (
        running_collector(tmp_path, connections_max=4) as collector,
        connections(collector, 60) as silent,
    ):
        assert honest_times(collector, 3)
        assert closed_after(silent[0], time.monotonic())[0] < 1


def test_requests_that_are_being_answered_are_limited(tmp_path, monkeypatch):
    with running_collector(tmp_path, connections_max=2) as collector:
        release = threading.Event()
        monkeypatch.setattr(Store, "ready", lambda self: release.wait(20) and None)
        ready = (
            f"GET /readyz HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {collector.token}"
        )
        with connections(collector, 2) as held:
            for connection in held:
                connection.sendall(ready.encode() + b"\r\n\r\n")
            deadline = time.monotonic() + 10
            while collector.get("/healthz").status_code == 200:
                assert time.monotonic() < deadline
            refused = collector.get("/healthz")
            assert refused.json()["reason"] == "busy"
            assert refused.headers["retry-after"] == "1"
            release.set()
            assert b" 200 " in held[0].recv(65536)
        while collector.get("/healthz").status_code != 200:
            assert time.monotonic() < deadline, "the places are given back"


def test_two_host_headers_are_refused(running):
    with connections(running, 1) as [connection]:
        connection.sendall(
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n"
            b"Connection: close\r\n\r\n"
        )
        _, got = closed_after(connection, time.monotonic())
    assert got.startswith(b"HTTP/1.1 400 ")
    assert b'"reason":"host"' in got


def test_every_answer_forbids_the_browser_to_guess_its_type(running):
    for path in ("/healthz", "/api/v1/runs", "/nothing"):
        assert running.get(path).headers["x-content-type-options"] == "nosniff"


def test_what_is_not_http_is_answered_with_a_problem(running):
    with connections(running, 1) as [connection]:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        _, got = closed_after(connection, time.monotonic())
    assert got.startswith(b"HTTP/1.1 400 ")
    assert b'"reason":"bad_request"' in got


def test_requests_without_rights_and_failures_are_counted(running, monkeypatch):
    before = dict(outcomes(running))
    body = encode(batch(start()))
    running.send(body, Authorization="Bearer tv_ingest_x_y")
    reader = running.app.state.tokens.create(Scope.READ)
    running.send(body, Authorization=f"Bearer {reader}")
    monkeypatch.setattr(running.store, "submit", lambda *_: 1 / 0)
    assert running.send(body).status_code == 500
    after = outcomes(running)
    for reason in ("unauthorised", "forbidden", "internal"):
        assert after.get(reason, 0) == before.get(reason, 0) + 1, reason
