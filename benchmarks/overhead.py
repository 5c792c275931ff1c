"""What watching costs, against the same training without it.

One instance of each model is trained in blocks, watched and plain in turn. A block's time is the
mean over all of its steps, a ratio compares a watched block with its plain neighbours, and a row
is the mean of the ratios with its 95 % interval. docs/benchmarks.md explains every column.

    python benchmarks/overhead.py                          # all models, about 15 minutes
    python benchmarks/overhead.py --models ad --seconds 300
    python benchmarks/overhead.py --peers --json figures.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import overhead_table as table
import trainvitals
from handover import handover
from models import WORKLOADS
from overhead_blocks import (
    Attach,
    Attachment,
    Round,
    Trainer,
    alternate,
    from_the_start,
)
from overhead_once import import_ms, read_once_s, watch_ms
from overhead_table import Floor, Row
from peers import available

WEIGHT = {"a": 1, "b": 2, "c": 2, "d": 2}
"""Share of the time of the run: the models with long steps need longer blocks."""
EVERY_STEP = "every step, all"
WEIGHTS_ONLY = "every step, weights and gradients"
FIRST_FULL_STEPS = 16
"""The first full steps of a watch measure more: rows that are equal, initialisers, the loss's
predictions and targets. They have a row of their own."""


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    os.environ["TRAINVITALS_REPORT"] = "off"
    start = time.perf_counter()
    machine = (
        f"torch {torch.__version__}, python {platform.python_version()}, {os.cpu_count()} CPUs, "
        f"{args.threads} thread(s), AdamW{' fused' if args.fused else ''}"
    )
    print(machine, flush=True)
    once = {
        "import_ms": import_ms("import trainvitals", beyond="pass"),
        "import_watch_ms": import_ms("from trainvitals import watch", beyond="import numpy"),
        **{f"watch_ms_{n}_tensors": watch_ms(n) for n in args.watch_tensors},
    }
    print(table.once(once), flush=True)
    peers = available(print) if args.peers else {}
    print(table.HEADER, flush=True)
    figures: dict[str, Any] = {"machine": machine, "once": once, "rows": [], "floors": []}
    total = sum(WEIGHT[key] for key in args.models)
    for key in args.models:
        trainer = Trainer(WORKLOADS[key](), fused=args.fused)
        rows = measure(trainer, key, args.seconds * WEIGHT[key] / total, args)
        if key in args.peer_models:
            rows += measure_peers(trainer, key, peers, args)
        floor = Floor.of(key, rows, WEIGHTS_ONLY, read_once_s(trainer.model))
        print(f"{floor.line()}\n{table.accounts(rows)}\n", flush=True)
        figures["rows"] += [row.figures() for row in rows]
        figures["floors"].append(dataclasses.asdict(floor))
        if args.json:  # after each model, so that an interrupted run leaves what it measured
            text = json.dumps(table.finite(figures), indent=1, allow_nan=False)
            args.json.write_text(f"{text}\n")
    print(handover().line())
    print(f"{time.perf_counter() - start:.0f} s in all")


def watched(*, every: int | None, activations: bool = True) -> Attach:
    """Return what attaches a monitor without a collector."""

    def attach(model: nn.Module, optimizer: torch.optim.Optimizer) -> Attachment:
        monitor = trainvitals.watch(
            model,
            optimizer,
            collector="off",
            every=every,
            activations="auto" if activations else False,
        )
        return Attachment(
            loss=monitor.loss,
            share=lambda: monitor.diagnosis().overhead,
            close=monitor.close,
        )

    return attach


def measure(trainer: Trainer, key: str, seconds: float, args: argparse.Namespace) -> list[Row]:
    """Measure and print the rows of one model in about `seconds`."""
    rows: list[Row] = []

    def add(name: str, rounds: list[Round], *, account: bool = False) -> None:
        rows.append(Row(key, name, rounds, account=account))
        print(rows[-1].line(), flush=True)

    settings = {
        EVERY_STEP: watched(every=1),
        WEIGHTS_ONLY: watched(every=1, activations=False),
    }
    for name, attach in settings.items():
        first, later = from_the_start(
            trainer,
            attach,
            first_steps=FIRST_FULL_STEPS,
            first_seconds=math.inf,
            block_seconds=args.block_seconds,
            pairs=args.pairs,
            seconds=0.2 * seconds,
        )
        add(name, later)
        add(f"{name}, first {FIRST_FULL_STEPS} steps", first)
    first, later = from_the_start(
        trainer,
        watched(every=None),
        first_steps=args.first_steps,
        first_seconds=args.first_seconds,
        block_seconds=6 * args.block_seconds,
        pairs=args.pairs,
        seconds=0.6 * seconds,
    )
    longest = max(r.watched.steps for r in first)
    add(f"default after warm-up, step {longest} on", later, account=True)
    add(f"default, first {longest} steps", first, account=True)
    return rows


def measure_peers(
    trainer: Trainer, key: str, peers: dict[str, Attach], args: argparse.Namespace
) -> list[Row]:
    """Measure and print a row for each peer; one that fails is named with its error."""
    rows = []
    for name, attach in peers.items():
        try:
            steps = trainer.steps_in(args.block_seconds / 2, least=2)
            rounds = alternate(trainer, attach, steps, args.pairs, args.peer_seconds)
        except Exception as error:  # noqa: BLE001 - the code of others may raise anything
            print(f"{key}  {name}: failed, {type(error).__name__}: {error}")
            continue
        rows.append(Row(key, name, rounds))
        print(rows[-1].line(), flush=True)
    return rows


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", default="abcd", help="which of a, b, c, d")
    add("--seconds", type=float, default=840, help="for the rows of trainvitals, all models")
    add("--pairs", type=int, default=12, help="at most so many watched blocks in a row")
    add(
        "--block-seconds",
        type=float,
        default=2,
        help="of plain training, in the default's blocks three times",
    )
    add("--first-steps", type=int, default=300, help="length of the warm-up")
    add("--first-seconds", type=float, default=20, help="the warm-up is over after this, too")
    add("--threads", type=int, default=1)
    add("--fused", action="store_true", help="fused AdamW")
    add("--peers", action="store_true", help="measure other tools, those that are installed")
    add("--peer-models", default="abcd", help="the models that --peers are measured on")
    add("--peer-seconds", type=float, default=12, help="for each peer and model")
    add("--watch-tensors", type=int, nargs="*", default=[500, 5000], help="sizes for watch()")
    add("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    if not args.models or not set(args.models) <= set(WORKLOADS):
        parser.error(f"--models takes letters of {''.join(WORKLOADS)}")
    if args.pairs < 1 or args.threads < 1 or args.first_steps < 1:
        parser.error("--pairs, --threads and --first-steps are at least 1")
    if not math.isfinite(args.seconds):
        parser.error("--seconds must be a number")
    return args


if __name__ == "__main__":
    main()
