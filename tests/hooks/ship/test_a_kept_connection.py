"""A connection is kept between exchanges, and opened again when the other end has closed it."""

import gc
import json
import os
import socket
import threading
from contextlib import contextmanager, suppress

import pytest

from helpers.tiny_collector import tiny_collector
from trainvitals.ship import Shipper
from trainvitals.ship.http import Acknowledged, Away, Link, parse_url

SOURCE = b"s" * 16


class Server:
    """Answers each request as `answer(request number)` says; counts connections and requests."""

    def __init__(self, answer):
        self.answer = answer
        self.connections = self.requests = 0
        self.counted = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, suppress(OSError):
            while True:
                request = b""
                while b"\r\n\r\nbatch" not in request:
                    part = connection.recv(65536)
                    if not part:
                        return
                    request += part
                with self.counted:
                    self.requests += 1
                    self.counted.notify_all()
                if self.answer(connection, self.requests) == "close":
                    return


@contextmanager
def server(answer):
    made = Server(answer)
    try:
        yield made
    finally:
        made.close()


def acknowledge(connection, number, *headers):
    body = json.dumps({"source": SOURCE.hex(), "seq": number, "stored": True}).encode()
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers, "", ""]
    connection.sendall("\r\n".join(lines).encode() + body)


def send(link, url, seq, deadline_s=5.0):
    return link.post(parse_url(url), "t", b"batch", source=SOURCE, seq=seq, deadline_s=deadline_s)


def test_batches_share_one_connection():
    with server(acknowledge) as collector, Link() as link:
        for seq in (1, 2, 3):
            assert send(link, collector.url, seq) == Acknowledged()
    assert (collector.connections, collector.requests) == (1, 3)


def test_a_server_that_closes_after_each_answer_gets_a_new_connection_for_each_batch():
    def once(connection, number):
        acknowledge(connection, number, "Connection: close")
        return "close"

    with server(once) as collector, Link() as link:
        for seq in (1, 2, 3):
            assert send(link, collector.url, seq) == Acknowledged()
    assert collector.connections == 3


def test_a_connection_that_was_closed_while_it_waited_is_opened_again():
    def once(connection, number):
        acknowledge(connection, number)  # says that it stays open, and closes
        return "close"

    with server(once) as collector, Link() as link:
        for seq in (1, 2, 3):
            assert send(link, collector.url, seq) == Acknowledged()
    assert collector.connections == 3


def test_a_kept_connection_that_ends_before_the_answer_is_tried_once_more():
    def loses_the_second(connection, number):
        if number == 2:
            return "close"
        acknowledge(connection, number - (number > 2))
        return None

    with server(loses_the_second) as collector, Link() as link:
        assert send(link, collector.url, 1) == Acknowledged()
        assert send(link, collector.url, 2) == Acknowledged()
    assert (collector.connections, collector.requests) == (2, 3)


def test_a_new_connection_that_ends_before_the_answer_is_not_tried_again_at_once():
    with server(lambda *_: "close") as collector, Link() as link:
        assert isinstance(send(link, collector.url, 1), Away)
    assert collector.requests == 1


def test_each_exchange_on_a_kept_connection_has_its_own_deadline():
    def silent_later(connection, number):
        if number == 1:
            acknowledge(connection, number)

    with server(silent_later) as collector, Link() as link:
        assert send(link, collector.url, 1, deadline_s=0.3) == Acknowledged()
        refused = send(link, collector.url, 2, deadline_s=0.3)
    assert isinstance(refused, Away)
    assert "TimeoutError" in refused.reason
    assert collector.requests == 2


def test_the_rest_of_a_late_answer_is_not_taken_for_the_next_one():
    def late(connection, number):
        acknowledge(connection, number)
        if number == 1:
            acknowledge(connection, 99)  # nobody asked for it

    with server(late) as collector, Link() as link:
        assert send(link, collector.url, 1) == Acknowledged()
        # It arrives with the first answer, or after the second request was sent.
        send(link, collector.url, 2)
        # A link that met the late answer does not wait until its second request was read.
        with collector.counted:
            assert collector.counted.wait_for(lambda: collector.requests == 2, 10)
        assert send(link, collector.url, 3) == Acknowledged()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_closes_its_copy_and_the_parent_goes_on():
    with server(acknowledge) as collector, Link() as link:
        assert send(link, collector.url, 1) == Acknowledged()
        child = os.fork()
        if child == 0:
            link.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert send(link, collector.url, 2) == Acknowledged()
    assert collector.connections == 1


def test_delivery_closes_its_connection_when_it_ends(tmp_path):
    def open_sockets():
        gc.collect()
        found = 0
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        return found

    before = open_sockets()
    with tiny_collector() as collector:
        shipper = Shipper(
            url=collector.url, token="t", run="r", project="p", spool_dir=tmp_path / "spool"
        )
        shipper.close()
        for thread in threading.enumerate():
            if thread.name == "trainvitals-exchange":
                thread.join(5)
    assert open_sockets() == before
