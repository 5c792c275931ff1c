"""R6: after lost, late and repeated messages and killed processes, each record is stored once.

Ranks and a collector run in simulated time (helpers/simulated_delivery.py says what is real). A
failing seed is repeated by `simulate(seed)`.
"""

from collections import Counter
from concurrent.futures import Future

import pytest

from helpers.simulated_delivery import simulate
from trainvitals_server.store import Store, statements
from trainvitals_server.store.ingest import Writing
from trainvitals_server.store.prepare import prepare
from trainvitals_server.store.types import Ack

SEEDS = 200
MANY_SEEDS = 2000
PLACES = {
    "collector: after the commit, before the answer",
    "collector: before the commit",
    "collector: before the write",
    "network: a proxy answers",
    "network: a request arrives twice",
    "network: a request is late",
    "network: a request is lost",
    "network: a request is reset",
    "network: an answer is late",
    "network: an answer is lost",
    "network: an answer is reset",
    "trainer: after the answer, before the spool is cut",
    "trainer: after the spool is cut",
    "trainer: after the spool is written, before it is sent",
    "trainer: before the spool is written",
    "trainer: between two steps",
    "trainer: in the middle of a write to the spool",
}


def assert_nothing_is_lost(seeds: range) -> None:
    """Every seed leaves nothing lost, doubled or uncounted; together they fail at every place."""
    failures: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for seed in seeds:
        result = simulate(seed)
        assert not result.problems, f"seed {seed}: {'; '.join(result.problems)}"
        failures += result.failures
        counts += result.counts
    print(f"{len(seeds)} seeds: {dict(counts)}, {failures.total()} failures")
    assert set(failures) == PLACES
    assert counts["killed"] > len(seeds) / 2
    assert counts["dropped"] > 0, "no spool was full: the count of dropped records is not tested"


@pytest.mark.timeout(300)
def test_200_seeds_lose_double_and_miscount_nothing():
    assert_nothing_is_lost(range(SEEDS))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_2000_more_seeds_lose_double_and_miscount_nothing():
    assert_nothing_is_lost(range(SEEDS, SEEDS + MANY_SEEDS))


def test_a_seed_repeats_all_that_happens():
    first, second = simulate(7), simulate(7)
    assert first == second
    assert first.failures.total() > 0


class AnswersFirst(Store):
    """Acknowledges a batch before it is committed."""

    def submit(self, batch, body):
        super().submit(batch, body)
        answer = Future()
        answer.set_result(Ack(batch.source, batch.seq, stored=True))
        return answer


class KeyFirst(Store):
    """Commits the key of a batch in one transaction, and its records in the next."""

    def submit(self, batch, body):
        prepared, answer = prepare(batch, body), Future()

        def key(connection):
            writing = Writing(connection, prepared, self._layouts, self._clock())
            return writing._primary_if_new(writing._run_and_source()[1])

        def records(connection):
            return Records(connection, prepared, self._layouts, self._clock()).run()

        def records_after(stored_key):
            if stored_key.result():
                self.database.submit(records).add_done_callback(passed_on)
            else:
                answer.set_result(Ack(batch.source, batch.seq, stored=False))

        def passed_on(stored):
            if stored.exception() is None:
                answer.set_result(stored.result())
            else:
                answer.set_exception(stored.exception())

        self.database.submit(key).add_done_callback(records_after)
        return answer


class Records(Writing):
    """Stores a batch without asking whether it is stored."""

    def _primary_if_new(self, source):
        return statements.PRIMARY.one(self.connection, {"run_pk": source.run_pk})


class NoKeys(Store):
    """Stores each batch as often as it arrives."""

    def submit(self, batch, body):
        prepared = prepare(batch, body)
        return self.database.submit(
            lambda connection: Records(connection, prepared, self._layouts, self._clock()).run()
        )


@pytest.mark.parametrize(
    ("build", "problem"),
    [(AnswersFirst, "lost"), (KeyFirst, "lost"), (NoKeys, "rows for")],
)
def test_a_broken_build_is_found(build, problem):
    for seed in range(SEEDS):
        if any(problem in found for found in simulate(seed, build).problems):
            return
    pytest.fail(f"{SEEDS} seeds find nothing: the test is blind.")
