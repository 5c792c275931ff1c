"""False alarms on healthy programs.

make bench-healthy                                     # every program and setting
make bench-healthy ARGS='--jobs 2 --json result.json'
make bench-healthy ARGS='--only "*gan*" --verbose'
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from healthy.report import data, text
from healthy.runner import Outcome, load, names, run_all


def main() -> None:
    args = arguments()
    started = time.perf_counter()
    chosen = [name for name in names() if fnmatchcase(name, args.only)]
    runs = [(name, index) for name in chosen for index in range(len(load(name).settings))]
    # The first setting of every program, then the second: a bench that ends early covers them all.
    runs.sort(key=lambda run: run[1])
    print(f"{len(chosen)} programs, {len(runs)} runs", flush=True)
    outcomes = run_all(
        runs,
        jobs=args.jobs,
        until=lambda: time.perf_counter() - started > 60 * args.minutes,
        progress=show if args.verbose else quiet,
    )
    print(f"torch {torch.__version__}\n\n{text(outcomes)}")
    print(f"\n{time.perf_counter() - started:.0f} s")
    if args.json:
        args.json.write_text(json.dumps(data(outcomes), indent=1))


def show(outcome: Outcome) -> None:
    """Print one finished run."""
    alarms = ", ".join(f"{a.rule} at {a.where or 'the run'}" for a in outcome.alarms)
    print(
        f"{outcome.program:24} {outcome.setting:36} {outcome.metric:9.4g} "
        f"{'learned' if outcome.learned else 'MISSED':8} {outcome.verdict:9} "
        f"{outcome.seconds:6.2f} s  {alarms or '-'} {outcome.error}",
        file=sys.stderr,
        flush=True,
    )


def quiet(_: Outcome) -> None:
    """Print nothing."""


def arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", help="glob of program names")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each in a process")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no run after them")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--verbose", action="store_true", help="one line for each run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
