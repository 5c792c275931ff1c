"""After five failures in a row, a request without a body comes before each batch."""

import time

import pytest

from helpers.tiny_collector import tiny_collector
from trainvitals.ship import Shipper, adopt, backoff, parse_url, sender
from trainvitals.ship.adopt import Adoption
from trainvitals.wire import RunStart


@pytest.fixture(autouse=True)
def _fast_retries(monkeypatch):
    for delay in ("DELAY_FIRST_S", "DELAY_MAX_S", "BREAKER_MAX_S", "TOKEN_EVERY_S"):
        monkeypatch.setattr(backoff, delay, 0.05)
    for part in (sender, adopt):
        monkeypatch.setattr(part, "EXCHANGE_S", 1.0)


def shipper_to(url, spool_dir) -> Shipper:
    shipper = Shipper(url=url, token="t", run="r", project="p", spool_dir=spool_dir)
    shipper.put(RunStart(0.0, name="r"))
    return shipper


def wait_until(condition):
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@pytest.mark.parametrize("trouble", ["503", "429", "reset"])
def test_a_batch_is_sent_five_times_and_then_only_when_a_probe_succeeds(trouble, tmp_path):
    with tiny_collector(trouble) as collector:
        shipper = shipper_to(collector.url, tmp_path)
        wait_until(lambda: collector.probes >= 5)
        assert collector.requests == 5
        collector.behave = "well"
        wait_until(lambda: shipper.status.acknowledged == 1)
        shipper.close()
        assert len(collector.batches) == 1


def test_after_an_acknowledgement_it_sends_without_a_probe(tmp_path):
    with tiny_collector("503") as collector:
        shipper = shipper_to(collector.url, tmp_path)
        wait_until(lambda: collector.probes >= 1)
        collector.behave = "well"
        wait_until(lambda: shipper.status.acknowledged == 1)
        probes = collector.probes
        shipper.put(RunStart(1.0, name="r"))
        wait_until(lambda: shipper.status.acknowledged == 2)
        shipper.close()
        assert collector.probes == probes


def test_the_spool_of_an_ended_process_is_probed_for_too(tmp_path):
    with tiny_collector("503") as collector:
        left = shipper_to(collector.url, tmp_path)
        wait_until(lambda: left.status.state == "away")
        left.close()
        sent = collector.requests
        adoption = Adoption(parse_url(collector.url), lambda: "t", tmp_path, 10**6)
        while collector.probes < 3:
            adoption.turn()
            time.sleep(0.02)
        assert collector.requests == sent + 5
        collector.behave = "well"
        wait_until(lambda: adoption.turn() is None)
        assert len(collector.batches) == 1


@pytest.mark.parametrize("status", [403, 404, 405, 501])
def test_a_proxy_that_refuses_the_probe_holds_no_batch_back(status, tmp_path):
    with tiny_collector("503") as collector:
        collector.probed = status
        shipper = shipper_to(collector.url, tmp_path)
        wait_until(lambda: collector.requests > 6)
        collector.behave = "well"
        wait_until(lambda: shipper.status.acknowledged == 1)
        shipper.close()
