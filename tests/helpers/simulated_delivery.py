"""Ranks that send to a collector in simulated time, while processes die and messages are lost.

Real:      `Shipper` with its sender, packer, back-off, spool and adoption; the encoding; what it
           makes of an answer; the store of the collector on SQLite, its group commit, its sealing.
Simulated: threads, time, the network between, and the death of a process at a named place: its
           threads stop where they are, its files are closed, and a write may be half done.
Start at `simulate`; simulated_records.py compares what was produced with what is stored.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from helpers.simulated_network import LATE_S, Answer, Network, Response, acknowledgement
from helpers.simulated_records import (
    Life,
    frames_of_step,
    introduction,
    problems_of,
    stored_records,
)
from helpers.simulated_threads import Process, World
from trainvitals.ship import Shipper, adopt, backoff, http, packer, parse_url, sender, shipper
from trainvitals.ship.adopt import Adoption
from trainvitals.ship.spool import Spool, left_over
from trainvitals.wire import RunEnd, WireError, decode
from trainvitals_server import problems
from trainvitals_server.store import RequestRefused, Store, seal, sqlite
from trainvitals_server.store.seal import Compactor
from trainvitals_server.store.sqlite import SqliteDatabase

URL = "http://127.0.0.1:8321"
TROUBLE_S = 10.0
END_S = 3600.0
STARTS_MAX = 2
SPOOL_BYTES_MAX = (2**20, 2**20, 3000)
"""The last one is too small for an outage: records are dropped, and must be counted."""
FAILURE_RATES = (0.02, 0.05)
SEAL_S = 12.0
COMPILED: dict[Any, Any] = {}
"""The statements that any database of a simulation has compiled."""
DATABASE = "trainvitals.db"


@dataclass
class Result:
    """What one run has shown."""

    problems: list[str]
    """What was lost, doubled or not counted; empty for a correct build."""
    failures: Counter[str]
    """Place → how often something failed there."""
    counts: Counter[str] = field(default_factory=Counter)


def simulate(seed: int, build: type[Store] = Store) -> Result:
    """Train, fail, recover and deliver; everything that happens follows from `seed`."""
    world, empty = World(seed), empty_database()
    with TemporaryDirectory(prefix="simulated-") as folder, patched(world):
        (Path(folder) / DATABASE).write_bytes(empty)
        cluster = Cluster(world, Path(folder), build)
        try:
            return cluster.result()
        finally:
            cluster.collector.stop()
            world.close()


class Cluster:
    """Some ranks of one run on one host, and their collector."""

    def __init__(self, world: World, home: Path, build: type[Store]) -> None:
        self.world = world
        self.network = Network(world)
        self.collector = Collector(world, self.network, home, build)
        self.spool_dir = home / "spool"
        self.spool_bytes_max = world.random.choice(SPOOL_BYTES_MAX)
        self.ranks = world.random.choice((2, 2, 3))
        self.streams = world.random.choice((1, 1, 2))
        self.lives: list[Life] = []

    def result(self) -> Result:
        world = self.world
        world.failure_rate = world.random.choice(FAILURE_RATES)
        world.after(TROUBLE_S, partial(setattr, world, "failure_rate", 0.0))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(http.Link, "_exchange", lambda _, *given: self.network.exchange(*given))
            self.collector.start()
            for rank in range(self.ranks):
                self.begin(rank, 0)
            if not world.run(self.is_trained, END_S):
                return Result(["the training does not end"], world.failures)
            delivered: list[bool] = []
            Process(world, "sync").start(partial(self.deliver, delivered))
            if not world.run(lambda: bool(delivered), END_S):
                return Result(["the delivery does not end"], world.failures)
            quiet_s = world.now + LATE_S  # until the last late message has arrived
            world.run(lambda: world.now > quiet_s, END_S)
        found = [f"{n} batches wait for {url}" for url, n in left_over(self.spool_dir)]
        for life in self.lives:
            found += problems_of(life, self.collector.store)
        counts = Counter(sources=len(self.lives))
        for life in self.lives:
            counts += Counter(produced=len(life.records), dropped=life.dropped())
            counts["stored"] += stored_records(life, self.collector.store)
            counts["killed"] += life.killed_at is not None
        return Result(found, world.failures, counts)

    def begin(self, rank: int, step: int) -> None:
        """Start a training process at `step`."""
        world = self.world
        life = Life(rank, is_tight=self.spool_bytes_max < 10**4)
        self.lives.append(life)
        process = Process(world, f"rank {rank}")
        process.at_kill.append(partial(self.ended, life))
        process.start(partial(self.train, process, life, step))

    def train(self, process: Process, life: Life, step: int) -> None:
        """Send some steps, and end."""
        world, random = self.world, Random(self.world.random.random())
        life.shipper = ship = Shipper(
            url=URL,
            token="t",
            run="r",
            project="p",
            spool_dir=self.spool_dir,
            rank=life.rank,
            spool_bytes_max=self.spool_bytes_max,
            clock=world.clock,
        )
        life.put(world.now, *introduction(world.now, self.streams))
        pause_s = random.choice((0.05, 0.2, 0.6))
        for at in range(step, step + random.randint(4, 20)):
            life.put(world.now, *frames_of_step(at, world.now, random, self.streams))
            process.failpoint("trainer: between two steps", weight=0.1)
            world.sleep(pause_s)
        life.put(world.now, RunEnd(world.now, at, "finished"))
        ship.close()
        life.is_closed = True
        process.kill()

    def ended(self, life: Life) -> None:
        """Note how a process ended; a killed one may be started again."""
        if life.is_closed:
            return
        life.killed_at = self.world.now
        starts = sum(other.rank == life.rank for other in self.lives)
        if starts < STARTS_MAX:
            again = partial(self.begin, life.rank, life.next_step())
            self.world.after(self.world.random.uniform(0.5, 5), again)
        else:
            life.is_last = True

    def is_trained(self) -> bool:
        over = sum(life.is_closed or life.is_last for life in self.lives)
        return over == self.ranks and self.world.now > TROUBLE_S

    def deliver(self, delivered: list[bool]) -> None:
        """Do what `trainvitals sync` does."""
        adoption = Adoption(
            parse_url(URL),
            lambda: "t",
            self.spool_dir,
            self.spool_bytes_max,
            clock=self.world.clock,
        )
        while (pause_s := adoption.turn()) is not None:
            self.world.sleep(pause_s)
        delivered.append(True)


class Collector:
    """Opens the store, receives batches and seals; it is started again when it was killed."""

    def __init__(self, world: World, network: Network, home: Path, build: type[Store]) -> None:
        self._world = world
        self._network = network
        self._path = home / DATABASE
        self._build = build
        self._numbers = itertools.count()
        self._answers: dict[int, Answer] = {}
        """The exchanges that wait for the store."""
        self._restarts = True
        self.store: Store

    def start(self) -> None:
        self.process = process = Process(self._world, "collector")
        process.at_kill.append(self._killed)
        process.start(partial(self._run, process))

    def stop(self) -> None:
        self._restarts = False
        self.process.kill()

    def receive(self, path: str, body: bytes, answer: Answer) -> None:
        """Do what the routes do, without HTTP."""
        if path == http.READY_PATH:
            answer(Response(200))
            return
        process, number = self.process, next(self._numbers)
        self._answers[number] = answer
        process.failpoint("collector: before the write")
        if not process.is_alive:
            return
        try:
            stored = self.store.submit(decode(body), body)
        except (WireError, RequestRefused) as refused:
            self._answers.pop(number)(problem(refused))
            return
        stored.add_done_callback(partial(self._written, process, number))

    def _written(self, process: Process, number: int, stored: Future[Any]) -> None:
        process.failpoint("collector: after the commit, before the answer")
        if not process.is_alive:
            return
        answer = self._answers.pop(number)
        error = stored.exception()
        if isinstance(error, RequestRefused):
            answer(problem(error))
        else:
            ack = stored.result()
            answer(acknowledgement(ack.source, ack.seq, stored=ack.stored))

    def _run(self, process: Process) -> None:
        database = FailingDatabase(process, self._path)
        self.store = self._build(database, clock=self._world.clock)
        self._network.collector = self
        compactor = Compactor(database, clock=self._world.clock)
        while True:
            self._world.sleep(SEAL_S)
            if self._world.random.random() < 0.3:
                compactor.run_once(everything=self._world.random.random() < 0.5)

    def _killed(self) -> None:
        self._network.collector = None
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer(None)
        if self._restarts:
            self._world.after(self._world.random.uniform(0.1, 5), self.start)


class FailingDatabase(SqliteDatabase):
    """A database whose process may die at each commit; its connections are closed then."""

    def __init__(self, process: Process, path: Path) -> None:
        self._connections: list[Any] = []
        process.at_kill.append(self._cut)
        super().__init__(sa.make_url(f"sqlite:///{path}"), queue_bytes_max=2**26)
        for engine in (self._writer_engine, self._reader_engine):
            engine.update_execution_options(compiled_cache=COMPILED)
        before = partial(process.failpoint, "collector: before the commit")
        sa.event.listen(self._writer_engine, "commit", lambda _: before())

    def _connect_writer(self) -> Any:
        connection = super()._connect_writer()
        # What a killed process wrote is in its files, synced or not (R3 is about power cuts).
        connection.execute("PRAGMA synchronous=OFF")
        self._connections.append(connection)
        return connection

    def _connect_reader(self) -> Any:
        self._connections.append(super()._connect_reader())
        return self._connections[-1]

    def _cut(self) -> None:
        for connection in self._connections:
            connection.close()


def failing_spool(world: World) -> type[Spool]:
    """Return a spool whose process may die around each step."""

    class FailingSpool(Spool):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            assert world.running is not None
            self._process = world.running.process
            self._process.at_kill.append(self.forget)

        def append(self, batch: Any) -> None:
            self._process.failpoint("trainer: before the spool is written", weight=0.4)
            super().append(batch)
            if world.strikes("trainer: in the middle of a write to the spool", weight=0.4):
                written = world.random.randrange(1, len(batch.payload))
                os.ftruncate(self._writing, os.fstat(self._writing).st_size - written)
                self._process.kill()
            self._process.failpoint(
                "trainer: after the spool is written, before it is sent", weight=0.4
            )

        def done(self) -> None:
            self._process.failpoint("trainer: after the answer, before the spool is cut")
            super().done()
            self._process.failpoint("trainer: after the spool is cut")

    return FailingSpool


def problem(refused: Any) -> Response:
    """Return the answer of the collector to a batch that it refuses."""
    answer = problems.problem_response(refused.reason, str(refused))
    headers = {"Content-Type": answer.headers["content-type"]}
    return Response(answer.status_code, headers, bytes(answer.body))


@lru_cache
def empty_database() -> bytes:
    """Return a file of a database with all tables."""
    with TemporaryDirectory(prefix="simulated-") as folder:
        path = Path(folder) / DATABASE
        Store.open(f"sqlite:///{path}").close()
        return path.read_bytes()


@contextmanager
def patched(world: World) -> Iterator[None]:
    """Replace threads, time and random numbers in the code that the simulation executes."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (shipper, sender, adopt, sqlite):
            patch.setattr(module, "threading", world.threading)
        for module in (sender, adopt):
            patch.setattr(module, "Spool", failing_spool(world))
        patch.setattr(sqlite, "Future", world.future)
        patch.setattr(http, "time", SimpleNamespace(monotonic=world.clock))
        patch.setattr(packer, "time", SimpleNamespace(time=world.clock))
        patch.setattr(shipper, "secrets", SimpleNamespace(token_bytes=world.random.randbytes))
        jitter = SimpleNamespace(Random=lambda: Random(world.random.random()))
        patch.setattr(backoff, "random", jitter)
        # Keys are pruned after few batches, so that repeats of pruned ones arrive.
        patch.setattr(seal, "KEYS_KEPT", 2)
        patch.setattr(seal, "KEYS_PRUNED_MIN", 3)
        logging.disable()  # the end of the threads of killed processes; `problems_of` counts errors
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
