"""Memory of the dashboard and the collector while many tabs show live runs.

python benchmarks/fleet_tabs.py --tabs 20 --minutes 10

The collector and the dashboard are processes of their own, started by their commands. Three running
runs of 60 tensors have 6,000 steps already and get 10 more a second each: what the collector keeps
of a run in memory is bounded, and these runs have reached the bound. The tabs of Chromium show, in
turns, the page of a run, its layers, one of its tensors and the page of all runs. Printed after
each minute: resident memory of both processes (MiB), the heap of the median tab after a collection
of its garbage (MiB), and whether each tab still follows its run. The last lines are slopes by least
squares.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import numpy as np
from playwright.sync_api import Browser, Page

sys.path[:0] = [str(Path(__file__).parents[1] / "tests")]

from helpers.chromium import chromium  # noqa: E402 - found by the line above
from trainvitals.wire import (  # noqa: E402
    CONTENT_TYPE,
    STATISTICS,
    Batch,
    Frame,
    Layout,
    Place,
    RunStart,
    Stat,
    Stream,
    encode,
)

RUNS = ("live-0", "live-1", "live-2")
SCALARS = ("loss", "gradient_norm", "learning_rate/0", "step_time_s", "overhead")
TENSORS = tuple(f"blocks.{i}.{part}.weight" for i in range(20) for part in ("query", "key", "out"))
STEPS_PER_S = 10
STEPS_BEFORE = 6000
STEPS_AT_ONCE = 25
"""Steps of one batch before the tabs are opened."""
PATHS = ("/run?run={run}", "/layers?run={run}", "/layers?run={run}&place={tensor}", "/")
STARTED_S = 90
LIVE = (Stream.WEIGHT, Stream.GRADIENT, Stream.UPDATE)


@dataclass(frozen=True)
class Service:
    """A process that was started by a command of trainvitals, and its address."""

    url: str
    pid: int

    def rss_mib(self) -> float:
        """Return the resident memory in MiB. Source: proc(5), VmRSS in kB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        if found is None:
            raise RuntimeError(f"process {self.pid} has ended")
        return int(found[1]) / 1024


@contextlib.contextmanager
def service(name: str, home: Path, *arguments: str) -> Iterator[Service]:
    """Yield `trainvitals NAME` on a free port; it is terminated at the end."""
    log = home / f"{name}.log"
    command = [sys.executable, "-m", "trainvitals.cli", name, "--port", "0", *arguments]
    given = {**os.environ, "TRAINVITALS_HOME": str(home)}
    with log.open("w") as file:
        process = subprocess.Popen(command, env=given, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + STARTED_S
        while not (found := re.search(rf"{name_of(name)}: +(http://[\w.:]+)", log.read_text())):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"`trainvitals {name}` does not start: {log.read_text()}")
            time.sleep(0.1)
        yield Service(found[1].rstrip("/"), process.pid)
    finally:
        process.terminate()
        process.wait(30)


def name_of(command: str) -> str:
    """Return the word before the address that a command prints."""
    return {"serve": "collector"}.get(command, command)


@dataclass
class Sender(threading.Thread):
    """Sends STEPS_PER_S steps of each run every second until `stop` is set."""

    url: str
    token: str
    stop: threading.Event = field(default_factory=threading.Event)
    ready: threading.Event = field(default_factory=threading.Event)
    """The steps before the tabs are opened have been sent."""
    failure: Exception | None = None

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        try:
            self._send()
        except Exception as error:  # noqa: BLE001 - raised in the main thread by `check`
            self.failure = error
            self.ready.set()

    def check(self) -> None:
        """Raise the exception that stopped the sending, if there is one."""
        if self.failure is not None:
            raise self.failure

    def _send(self) -> None:
        headers = {"Content-Type": CONTENT_TYPE, "Authorization": f"Bearer {self.token}"}
        sequence = at = 0
        with httpx2.Client(headers=headers, trust_env=False, timeout=30) as http:
            while not self.stop.is_set():
                began = time.monotonic()
                until = at + (STEPS_AT_ONCE if at < STEPS_BEFORE else STEPS_PER_S)
                for number, name in enumerate(RUNS):
                    batch = batch_of(name, number, sequence, at, until)
                    answer = http.post(f"{self.url}/api/v1/ingest", content=encode(batch))
                    if answer.is_error:
                        raise RuntimeError(f"a batch was refused: {answer.text}")
                at, sequence = until, sequence + 1
                if at >= STEPS_BEFORE:
                    self.ready.set()
                    self.stop.wait(max(0.0, 1 - (time.monotonic() - began)))


def batch_of(name: str, number: int, sequence: int, first: int, until: int) -> Batch:
    """Return steps of a healthy run; the first batch has the start and the layouts."""
    records: list[Any] = [] if sequence else start(name)
    steps = np.arange(first, until, dtype=np.int64)
    noise = np.random.default_rng((number, sequence))
    at = time.time() - (steps[-1] - steps) / STEPS_PER_S
    for stream, places in (("scalar", SCALARS), *((str(s), TENSORS) for s in LIVE)):
        kinds = STATISTICS[Stream(stream)]
        values = np.exp(0.02 * noise.standard_normal((len(steps), len(places), len(kinds))))
        values *= 0.02 if stream != "update" else 1e-3
        if stream == "scalar":
            values[:, 0, 0] *= 100 * np.exp(-steps / 2000) + 10
        for column, kind in enumerate(kinds):
            if kind in {Stat.NONFINITE, Stat.ZERO_SHARE}:
                values[:, :, column] = 0
        records.append(Frame(Stream(stream), 0, steps, at, values.astype(np.float32)))
    source = (number + 1).to_bytes(16)
    return Batch(name, "bench", source, sequence, time.time(), 0, tuple(records))


def start(name: str) -> list[Any]:
    """Return the records at the start of a run."""
    weights = tuple(
        Place(tensor, "weight", (256, 256), i, tensor.removesuffix(".weight"), "Linear")
        for i, tensor in enumerate(TENSORS)
    )
    scalars = tuple(Place(scalar) for scalar in SCALARS)
    return [
        RunStart(time.time(), name=name, host="node", total_steps=100_000),
        Layout(Stream.SCALAR, 0, STATISTICS[Stream.SCALAR], scalars),
        *(Layout(stream, 0, STATISTICS[stream], weights) for stream in LIVE),
    ]


@dataclass
class Tab:
    """A page, and the number of messages that it has received."""

    page: Page
    received: int = 0
    before: int = 0

    def __post_init__(self) -> None:
        self.network = self.page.context.new_cdp_session(self.page)
        self.network.send("Network.enable")
        self.network.on("Network.webSocketFrameReceived", self._count)

    def _count(self, _: object) -> None:
        self.received += 1

    def is_live(self) -> bool:
        """Return whether a message has arrived since the last call."""
        before, self.before = self.before, self.received
        return self.received > before

    def heap_mib(self) -> float:
        """Return the heap of the page's scripts after a collection of garbage."""
        self.network.send("HeapProfiler.collectGarbage")
        return float(self.network.send("Runtime.getHeapUsage")["usedSize"]) / 2**20


def open_tabs(browser: Browser, url: str, count: int) -> list[Tab]:
    """Return `count` tabs of one profile, each at a page that is refreshed."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tabs = []
    for number in range(count):
        tab = Tab(context.new_page())
        run, tensor = RUNS[number % len(RUNS)], TENSORS[number % len(TENSORS)]
        path = PATHS[number % len(PATHS)].format(run=run, tensor=tensor)
        tab.page.goto(url + path, timeout=120_000)
        tab.page.locator("[data-testid=stBidiComponentIsolated]").first.wait_for(timeout=120_000)
        tabs.append(tab)
    return tabs


def pause(tabs: Sequence[Tab], seconds: float) -> None:
    """Wait; Playwright handles the messages of the tabs meanwhile."""
    if tabs:
        tabs[0].page.wait_for_timeout(1000 * seconds)
    else:
        time.sleep(seconds)


@dataclass(frozen=True)
class Sample:
    """What was measured at a time."""

    minute: float
    collector_mib: float
    dashboard_mib: float
    tab_mib: float
    live: int
    """Tabs that received a message since the sample before."""


def slope(samples: Sequence[Sample], name: str) -> float:
    """Return the slope of a value in MiB a minute, by least squares; NaN for one sample."""
    if len(samples) < 2:
        return math.nan
    minutes = [sample.minute for sample in samples]
    return float(np.polyfit(minutes, [getattr(sample, name) for sample in samples], 1)[0])


def watch(
    tabs: Sequence[Tab], collector: Service, board: Service, sender: Sender, minutes: float
) -> list[Sample]:
    """Return a sample at the start and after each minute, and print each."""
    print("minute  collector  dashboard  tab (median)  live tabs")
    samples: list[Sample] = []
    began = time.monotonic()
    whole, rest = divmod(minutes, 1)
    for at in [*range(int(whole) + 1), *([minutes] if rest else [])]:
        while (left := began + 60 * at - time.monotonic()) > 0:
            pause(tabs, min(left, 1))
        sender.check()
        sample = Sample(
            (time.monotonic() - began) / 60,
            collector.rss_mib(),
            board.rss_mib(),
            median(tab.heap_mib() for tab in tabs) if tabs else math.nan,
            sum(tab.is_live() for tab in tabs),
        )
        samples.append(sample)
        print(
            f"{sample.minute:6.1f} {sample.collector_mib:10.1f} {sample.dashboard_mib:10.1f} "
            f"{sample.tab_mib:13.1f} {sample.live:6d} of {len(tabs)}",
            flush=True,
        )
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tabs", type=int, default=20, help="0: the runs alone")
    parser.add_argument("--minutes", type=float, default=10)
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        collector = stack.enter_context(service("serve", home))
        sender = Sender(collector.url, (home / "token").read_text().strip())
        sender.start()
        stack.callback(sender.stop.set)
        sender.ready.wait()
        sender.check()
        board = stack.enter_context(service("dashboard", home, "--collector", collector.url))
        browser = stack.enter_context(chromium())
        tabs = open_tabs(browser, board.url, asked.tabs)
        samples = watch(tabs, collector, board, sender, asked.minutes)
    later = samples[len(samples) // 2 :]
    for name in ("collector_mib", "dashboard_mib", "tab_mib"):
        print(
            f"{name}: {slope(samples, name):+.2f} MiB a minute, "
            f"{slope(later, name):+.2f} in the second half"
        )


if __name__ == "__main__":
    main()
