"""One exchange ends at its deadline, and only the collector itself refuses a batch."""

import json
import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from trainvitals.ship.http import Acknowledged, Away, Rejected, Unauthorised, parse_url, post

SOURCE = b"s" * 16
ACK = json.dumps({"source": SOURCE.hex(), "seq": 0, "stored": True}).encode()


@contextmanager
def answering(talk):
    """Yield the URL of a server that reads one request and then calls `talk(connection)`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = listener.accept()
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(65536)
            with suppress(OSError):  # the client has gone, as it should
                talk(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
        thread.join(5)


def outcome_of(talk, *, body=b"batch", deadline_s=5.0):
    with answering(talk) as url:
        return post(parse_url(url), "t", body, source=SOURCE, seq=0, deadline_s=deadline_s)


def answer(status: str, body: bytes = b"", *headers: str):
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return lambda connection: connection.sendall("\r\n".join(lines).encode() + body)


def problem(reason: str) -> bytes:
    return json.dumps({"type": f"/problems/{reason}", "reason": reason}).encode()


PROBLEM = "Content-Type: application/problem+json"


def forever(piece: bytes):
    def talk(connection):
        connection.sendall(b"HTTP/1.1 ")
        while True:
            connection.sendall(piece)
            time.sleep(0.02)

    return talk


def drip_headers(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for number in range(100_000):
        for byte in f"X-{number}: y\r\n".encode():
            connection.sendall(bytes([byte]))
            time.sleep(0.02)


def endless_continue(connection):
    while True:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.02)


def drip_body(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
    while True:
        connection.sendall(b" ")
        time.sleep(0.02)


@pytest.mark.parametrize(
    "talk",
    [
        pytest.param(drip_headers, id="headers byte by byte"),
        pytest.param(endless_continue, id="100 Continue for ever"),
        pytest.param(drip_body, id="a body byte by byte"),
        pytest.param(forever(b"2"), id="a status line byte by byte"),
        pytest.param(lambda connection: time.sleep(2), id="silence"),
    ],
)
def test_an_exchange_ends_at_its_deadline(talk):
    start = time.monotonic()
    assert isinstance(outcome_of(talk, deadline_s=0.5), Away)
    assert 0.4 < time.monotonic() - start < 0.9 + 2 * (talk.__name__ == "<lambda>")


def test_a_body_that_nobody_reads_ends_at_the_deadline():
    start = time.monotonic()
    body = bytes(range(256)) * 4096
    got = outcome_of(lambda connection: time.sleep(1), body=body, deadline_s=0.5)
    assert isinstance(got, Away)
    assert time.monotonic() - start < 2


def test_an_acknowledgement_names_the_batch():
    assert outcome_of(answer("200 OK", ACK)) == Acknowledged()
    other = json.dumps({"source": SOURCE.hex(), "seq": 1}).encode()
    assert isinstance(outcome_of(answer("200 OK", other)), Away)
    assert isinstance(outcome_of(answer("200 OK", b"[1]")), Away)
    assert isinstance(outcome_of(answer("200 OK", b"[" * 60_000)), Away)


def test_an_acknowledgement_before_the_connection_closes_counts():
    assert outcome_of(answer("200 OK", ACK, "Connection: close")) == Acknowledged()


def test_an_acknowledgement_after_one_100_continue_counts():
    def talk(connection):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        answer("200 OK", ACK)(connection)

    assert outcome_of(talk) == Acknowledged()


@pytest.mark.parametrize(
    ("status", "reason", "divisible"),
    [
        ("400 Bad Request", "malformed", True),
        ("400 Bad Request", "unknown_layout", True),
        ("413 Content Too Large", "too_large", True),
        ("415 Unsupported Media Type", "unsupported_media_type", True),
        ("422 Unprocessable Content", "invalid", True),
        ("409 Conflict", "conflict", False),
        ("409 Conflict", "run_in_other_project", False),
    ],
)
def test_a_problem_of_the_collector_refuses_the_batch(status, reason, divisible):
    got = outcome_of(answer(status, problem(reason), PROBLEM))
    assert isinstance(got, Rejected)
    assert (got.code, got.divisible) == (reason, divisible)


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        ("404 Not Found", problem("not_found"), (PROBLEM,)),
        ("404 Not Found", b"default backend - 404", ()),
        ("400 Bad Request", b"<html>nginx</html>", ("Content-Type: text/html",)),
        ("400 Bad Request", problem("host"), (PROBLEM,)),
        ("400 Bad Request", problem("wire_version"), (PROBLEM,)),
        ("400 Bad Request", problem("malformed"), ("Content-Type: application/json",)),
        ("413 Content Too Large", b"", ()),
        ("422 Unprocessable Content", b'{"type": "about:blank"}', (PROBLEM,)),
        ("302 Found", b"", ("Location: http://127.0.0.1:9/",)),
        ("503 Service Unavailable", problem("queue_full"), (PROBLEM,)),
    ],
)
def test_any_other_answer_is_tried_again(status, body, headers):
    assert isinstance(outcome_of(answer(status, body, *headers)), Away)


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
def test_without_a_right_token_nothing_is_refused_for_good(status):
    assert isinstance(outcome_of(answer(status)), Unauthorised)


@pytest.mark.parametrize(
    ("said", "after_s"),
    [
        ("7", 7.0),
        ("99999999999", 60.0),
        ("9" * 5000, 60.0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("-1", None),
    ],
)
def test_retry_after_is_capped_at_a_minute(said, after_s):
    got = outcome_of(answer("503 Service Unavailable", b"", f"Retry-After: {said}"))
    assert isinstance(got, Away)
    assert got.after_s == after_s


def test_a_token_that_is_no_header_is_no_exception():
    got = post(parse_url("http://127.0.0.1:9"), "a\nb", b"", source=SOURCE, seq=0, deadline_s=1)
    assert isinstance(got, Away)
    got = post(parse_url("http://127.0.0.1:9"), "ü€", b"", source=SOURCE, seq=0, deadline_s=1)
    assert isinstance(got, Away)
