"""The demo: start the collector, train and diagnose each case, print a table, keep serving.

Start at `play`.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

from rich.console import Console
from rich.text import Text

from trainvitals.api.client import Client, Refused, Unreachable
from trainvitals.api.schema import Diagnosis, Verdict
from trainvitals.demo.service import NotStarted, Service, environment
from trainvitals.remote import diagnosis_of, settled

PROJECT = "demo"
SETTLE_S = 30.0
EVERY = 4
"""A fixed cadence in steps: with the default, a time budget, the steps measured and thus the
findings would depend on the machine. A step takes about 3 ms, so the card shows a high overhead."""


@dataclass(frozen=True)
class Trained:
    """A finished training: its run in the collector and the expected diagnosis."""

    run: str
    url: str
    expected: frozenset[str]
    steps: int


@dataclass(frozen=True)
class Outcome:
    """The collector's diagnosis of a run."""

    trained: Trained
    verdict: str
    good: bool
    note: str


def play(home: Path, *, port: int, fast: bool, stay: bool, suffix: str) -> bool:
    """Run the demo; return whether every run got the expected diagnosis and no record was lost.

    Ctrl-C before the table stops the collector and raises KeyboardInterrupt; after the table it
    ends the demo normally.
    """
    # Line buffering keeps the order of stdout and of the cards on stderr when both go to one file.
    console = Console(highlight=False, emoji=False, soft_wrap=True)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    console.print("Starting the collector and loading PyTorch.")
    token_set = bool(os.environ.get("TRAINVITALS_TOKEN"))
    with closing(Service(home, port)) as service:
        try:
            good = _played(service, console, fast=fast, suffix=suffix)
            if stay:
                _stay(service, console, token_set=token_set)
        except NotStarted as error:
            console.print(Text(str(error)))
            return False
    return good


def _played(service: Service, console: Console, *, fast: bool, suffix: str) -> bool:
    started = time.monotonic()
    # `watch` in this process must use the demo's home and token, and none of the user's settings.
    chosen = environment(service.home)
    os.environ.clear()
    os.environ.update(chosen)
    from trainvitals.demo.digits import cases  # loads torch while the collector starts

    collector = service.wait_until_ready(console.print)
    os.environ["TRAINVITALS_TOKEN_FILE"] = str(service.token_file)
    trained = []
    for case in cases(fast):
        console.print(Text(f"\n{case.name}: {case.about}, {case.steps} steps", "bold"))
        trained.append(_trained(case, service.url, suffix))
        if len(trained) == 1:
            console.print(f"First diagnosis after {time.monotonic() - started:.1f} s.")
    console.print("\nThe collector's diagnoses:\n")
    outcomes = [_outcome(collector, one) for one in trained]
    for row in _table(outcomes):
        console.print(row)
    for outcome in outcomes:
        if outcome.note:
            console.print(Text(f"{outcome.trained.run}: {outcome.note}"))
    good = all(outcome.good for outcome in outcomes)
    console.print("" if good else "Not every run got the expected diagnosis.")
    return good


def _trained(case: object, url: str, suffix: str) -> Trained:
    import torch

    import trainvitals
    from trainvitals.demo.digits import Case, train

    assert isinstance(case, Case)  # noqa: S101 - `object` in the signature: this module does not import torch
    torch.set_num_threads(1)  # more threads do not speed up such small tensors
    run = f"{case.name}{suffix}"
    # Closing the monitor prints the card, because `environment` sets TRAINVITALS_REPORT=card.
    with trainvitals.watch(
        case.model,
        case.optimizer,
        run=run,
        project=PROJECT,
        collector=url,
        total_steps=case.steps,
        every=EVERY,
    ) as monitor:
        train(case, monitor)
    return Trained(run, monitor.url or url, case.expected, case.steps)


def _outcome(collector: Client, trained: Trained) -> Outcome:
    if not settled(collector, trained.run, SETTLE_S):
        note = f"the collector had not diagnosed its last step after {SETTLE_S:.0f} s"
        return Outcome(trained, "?", False, note)
    try:
        diagnosis = diagnosis_of(collector, trained.run)
        about = collector.run(trained.run)
    except (Refused, Unreachable) as error:
        return Outcome(trained, "?", False, str(error))
    headline = diagnosis.headline if diagnosis else None
    verdict = _verdict(diagnosis)
    as_expected = headline.code in trained.expected if headline else not trained.expected
    as_expected &= bool(headline) or verdict == Verdict.HEALTHY
    lost = sum(d.records for d in about.dropped)
    note = ""
    if lost or about.step != trained.steps - 1:
        note = f"{lost} records lost; {about.step + 1} of {trained.steps} steps arrived"
    elif not as_expected:
        note = f"expected {', '.join(sorted(trained.expected)) or 'healthy'}"
    return Outcome(trained, verdict, as_expected and not note, note)


def _verdict(diagnosis: Diagnosis | None) -> str:
    if diagnosis is None:
        return "not diagnosed"
    headline = diagnosis.headline
    return f"{headline.code} {headline.rule}" if headline else str(diagnosis.verdict)


def _table(outcomes: list[Outcome]) -> Iterator[Text]:
    """Yield the lines of the table. No line is truncated, so that the addresses can be copied."""
    run_width = max(len(outcome.trained.run) for outcome in outcomes)
    verdict_width = max(len(outcome.verdict) for outcome in outcomes)
    yield Text(f"{'Run':<{run_width}}  {'Verdict':<{verdict_width}}  Expected  Dashboard", "bold")
    for outcome in outcomes:
        row = Text(f"{outcome.trained.run:<{run_width}}  {outcome.verdict:<{verdict_width}}  ")
        row.append(*(("✓ yes   ", "green") if outcome.good else ("✗ no    ", "red")))
        row.append(f"  {outcome.trained.url}")
        yield row


def _stay(service: Service, console: Console, *, token_set: bool) -> None:
    for line in own_runs(service, token_set=token_set):
        console.print(Text(line))
    console.print(f"\nThe dashboard is at {service.url}. Press Ctrl-C to end the demo.")
    try:
        while service.alive():
            time.sleep(0.5)
    except KeyboardInterrupt:
        console.print("\nStopping the collector.")
        return
    console.print(f"The collector has exited; its log is {service.log_file}")


def own_runs(service: Service, *, token_set: bool) -> Iterator[str]:
    """Yield the lines that say how to send other runs to the demo's collector.

    `token_set`: the user's environment has TRAINVITALS_TOKEN, which overrides the token file.
    """
    database = f"sqlite:///{service.home / 'trainvitals.db'}"
    yield "\nTo send your own runs to this collector, run this before your training script:\n"
    if token_set:
        yield "  unset TRAINVITALS_TOKEN"
    yield f"  export TRAINVITALS_COLLECTOR={service.url}"
    yield f"  export TRAINVITALS_TOKEN_FILE={shlex.quote(str(service.token_file))}"
    yield "\nTo create a token for another machine or person:\n"
    yield f"  trainvitals token create ingest --database {shlex.quote(database)}"
