"""The ingest route acknowledges valid batches; any other gets a 4xx, and nothing is stored."""

import asyncio
import gzip
import socket
import struct
import time
import zlib

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.batches import SOURCE, amounts, batch, scalar_frame, scalars, start
from helpers.collector import running_collector
from trainvitals.wire import CONTENT_TYPE, encode
from trainvitals_server.cli import listening
from trainvitals_server.collect import routes
from trainvitals_server.settings import Settings

GOOD = encode(batch(start(), scalars("loss"), scalar_frame([0, 1], [1.0, float("nan")])))


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    home = tmp_path_factory.mktemp("ingest")
    limits = {"body_bytes_max": 100_000, "inflated_bytes_max": 300_000, "request_deadline_s": 1.0}
    with running_collector(home, **limits) as collector:
        yield collector


def nothing_is_stored(collector) -> bool:
    totals = amounts(collector.store)
    return (totals.runs, totals.batches, totals.log_rows) == (0, 0, 0)


def test_a_batch_is_acknowledged_by_its_key(collector):
    answer = collector.send(GOOD)
    assert answer.status_code == 200
    assert answer.json() == {
        "source": SOURCE.hex(),
        "seq": 0,
        "stored": True,
        "durability": "full",
    }
    assert collector.send(GOOD).json()["stored"] is False


def test_another_body_under_its_key_is_a_conflict(collector):
    collector.send(GOOD)
    answer = collector.send(batch(start()))
    assert (answer.status_code, answer.json()["reason"]) == (409, "conflict")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_batch_is_the_same_batch(sqlite_collector, encoding):
    packed = gzip.compress(GOOD) if encoding == "gzip" else zlib.compress(GOOD)
    assert sqlite_collector.send(packed, **{"Content-Encoding": encoding}).json()["stored"]
    assert not sqlite_collector.send(GOOD).json()["stored"]


@pytest.mark.parametrize(
    ("body", "headers", "in_loop"),
    [
        (GOOD, {}, True),
        (gzip.compress(GOOD, mtime=0), {"Content-Encoding": "gzip"}, False),
    ],
)
def test_a_compressed_batch_is_not_decoded_in_the_event_loop(
    sqlite_collector, monkeypatch, body, headers, in_loop
):
    def observed(*args, **named):
        seen.append(asyncio._get_running_loop() is not None)
        return inflate(*args, **named)

    seen, inflate = [], routes.inflate
    monkeypatch.setattr(routes, "inflate", observed)
    assert sqlite_collector.send(body, **headers).json()["stored"]
    assert seen == [in_loop]


@pytest.mark.parametrize(
    ("body", "headers", "status", "reason"),
    [
        (b"", {}, 400, "malformed"),
        (GOOD[:-1], {}, 400, "malformed"),
        (GOOD + b"x", {}, 400, "malformed"),
        (b"TVB\x02" + GOOD[4:], {}, 400, "wire_version"),
        (GOOD, {"Content-Type": "application/json"}, 415, "unsupported_media_type"),
        (GOOD, {"Content-Encoding": "br"}, 415, "unsupported_media_type"),
        (GOOD, {"Content-Encoding": "gzip"}, 400, "malformed"),
        (gzip.compress(GOOD)[:-9], {"Content-Encoding": "gzip"}, 400, "malformed"),
        (gzip.compress(GOOD) + b"x", {"Content-Encoding": "gzip"}, 400, "malformed"),
        (gzip.compress(bytes(400_000)), {"Content-Encoding": "gzip"}, 413, "too_large"),
        (bytes(100_001), {}, 413, "too_large"),
    ],
)
def test_what_is_no_batch_is_refused_with_a_reason(running, body, headers, status, reason):
    answer = running.send(body, **headers)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    assert answer.headers["content-type"] == "application/problem+json"
    assert nothing_is_stored(running)


def header(**changes: object) -> bytes:
    """A body whose header has values that the encoder never writes."""
    fields = {
        "run": "r",
        "project": "p",
        "source": SOURCE,
        "seq": 0,
        "sent_at": 1.0,
        "rank": 0,
        "records": [],
    }
    blob = msgspec.msgpack.encode({**fields, **changes})
    return struct.pack("<3sBI", b"TVB", 1, len(blob)) + blob


START = {"type": "start", "started_at": 1.0}


@pytest.mark.parametrize(
    "changes",
    [
        {"source": b"short"},
        {"run": ""},
        {"run": "x" * 300},
        {"project": "a\x00b"},
        {"seq": -1},
        {"seq": 2**63},
        {"rank": 2**40},
        {"sent_at": float("nan")},
        {"records": [{"type": "nothing"}]},
        {"records": [{"type": "event", "step": 2**62, "time": 1.0, "kind": "x"}]},
        {"records": [{"type": "start", "started_at": float("inf")}]},
        {"records": [{**START, "config": {"deep": [[[[]]]]}, "pid": -1}]},
        {"records": [{"type": "heartbeat", "time": 1.0, "step": -7}]},
        {"records": [{"type": "end", "time": 1.0, "step": 1, "state": "x"}]},
        {
            "records": [
                {
                    "type": "frame",
                    "stream": "weight",
                    "layout": 0,
                    "steps": [0],
                    "times": [0.0],
                    "places": 2**31,
                    "statistics": 2**31,
                }
            ]
        },
    ],
)
def test_a_header_with_impossible_numbers_is_refused(running, changes):
    answer = running.send(header(**changes))
    assert 400 <= answer.status_code < 500, answer.text
    assert nothing_is_stored(running)


FUZZ = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@FUZZ
@given(st.binary(max_size=300))
def test_noise_is_a_4xx(running, noise):
    assert 400 <= running.send(noise).status_code < 500
    assert nothing_is_stored(running)


def test_a_build_that_does_not_expect_malformed_bodies_is_found(running, monkeypatch):
    monkeypatch.setattr(routes, "WireError", KeyError)
    with pytest.raises(AssertionError):
        test_noise_is_a_4xx(running)


@FUZZ
@given(st.data())
def test_a_batch_with_bytes_changed_is_a_4xx_or_another_good_batch(running, data):
    body = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, 150))] = data.draw(st.integers(0, 255))
    answer = running.send(bytes(body))
    assert answer.status_code in (200, 400, 409, 413), answer.text
    if answer.status_code == 200:
        running.store.database.write(_forget_all)


def _forget_all(connection):
    from trainvitals_server.store.models import Base

    for table in reversed(Base.metadata.sorted_tables):
        if table.name != "token":
            connection.execute(table.delete())


msgpack_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@FUZZ
@given(st.sampled_from(["run", "source", "seq", "rank", "sent_at", "records"]), msgpack_values)
def test_a_header_of_other_types_is_a_4xx(running, field, value):
    answer = running.send(header(**{field: value}))
    assert answer.status_code in (200, 400, 409, 413), answer.text
    running.store.database.write(_forget_all)


@FUZZ
@given(st.dictionaries(st.text(), msgpack_values, max_size=4))
def test_any_config_is_stored_and_shown(running, config):
    sent = header(records=[{**START, "config": config}])
    assert running.send(sent).status_code == 200
    shown = running.get("/api/v1/runs/r")
    assert shown.status_code == 200
    assert set(shown.json()["config"]) == set(config)
    running.store.database.write(_forget_all)


def test_a_body_that_drips_is_cut_off(running):
    host, port = "127.0.0.1", running.settings.port
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(
            f"POST /api/v1/ingest HTTP/1.1\r\nHost: localhost\r\nContent-Type: {CONTENT_TYPE}\r\n"
            f"Authorization: Bearer {running.token}\r\nContent-Length: 1000\r\n\r\nx".encode()
        )
        assert b" 408 " in connection.recv(4096).split(b"\r\n")[0]


def test_a_body_without_a_length_is_measured_as_it_comes(running):
    host, port = "127.0.0.1", running.settings.port
    chunk = b"ffff\r\n" + bytes(0xFFFF) + b"\r\n"
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(
            f"POST /api/v1/ingest HTTP/1.1\r\nHost: localhost\r\nContent-Type: {CONTENT_TYPE}\r\n"
            f"Authorization: Bearer {running.token}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            + chunk * 2
        )
        assert b" 413 " in connection.recv(4096).split(b"\r\n")[0]


def test_what_was_sent_is_what_is_shown(collector):
    values = np.array([3.5, float("nan"), float("inf"), 1.0], np.float32)
    collector.send(batch(start(), scalars("loss"), scalar_frame(range(4), values)))
    answer = collector.get(
        "/api/v1/runs/r/series", stream="scalar", statistic="value", place="loss"
    )
    [curve] = answer.json()["series"]
    assert curve["step"] == [0, 2, 3], "NaN is not measured"
    assert curve["last"] == [3.5, None, 1.0]
    assert (curve["nonfinite"], curve["count"]) == ([0, 1, 0], [1, 0, 1])


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"\xd4\x05\x00", id="an extension type"),
        pytest.param(b"\xd6\xff\x00\x00\x00\x01", id="a timestamp"),
        pytest.param(b"\x81\x90\x01", id="a list as a key"),
        pytest.param(b"\xc4\x02\xff\xfe", id="bytes that are no text"),
        pytest.param(b"\x91" * 500 + b"\x01", id="deep nesting"),
        pytest.param(b"\xcf" + b"\xff" * 8, id="an integer of 64 bits"),
    ],
)
def test_what_json_cannot_say_in_a_config_is_shown_as_text(running, value):
    body = header(records=[{**START, "config": {"x": "@@@"}}])
    at = body.index(b"\xa3@@@")
    blob = body[8:at] + value + body[at + 4 :]
    assert running.send(struct.pack("<3sBI", b"TVB", 1, len(blob)) + blob).status_code == 200
    shown = running.get("/api/v1/runs/r")
    assert shown.status_code == 200
    assert "x" in shown.json()["config"]
    running.store.database.write(_forget_all)


def test_an_answer_does_not_wait_for_the_clients_acknowledgement(tmp_path):
    # asyncio turns Nagle off only for sockets made as TCP; without, each answer took 40 ms.
    with listening(Settings(home=tmp_path, port=0)) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_sick_run_is_diagnosed_after_it_was_ingested(sqlite_collector):
    losses = [1.0] * 50 + [float("nan")] * 10
    sent = scalar_frame(range(60), losses, [0.0] * 50 + [1.0] * 10)
    sqlite_collector.send(batch(start(), scalars("loss", "nonfinite_loss"), sent))
    deadline = time.monotonic() + 20
    while sqlite_collector.get("/api/v1/runs/r").json()["health"] is None:
        assert time.monotonic() < deadline, "no round was made"
        time.sleep(0.05)
    shown = sqlite_collector.get("/api/v1/runs/r").json()
    assert shown["health"] < 1
    assert shown["headline"]["severity"] == "error"
