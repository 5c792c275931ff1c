"""The detection benchmark: recall, headlines and false alarms of the diagnosis.

make bench-detection                                   # every case, one seed
make bench-detection ARGS='--seeds 5 --jobs 2 --json result.json'
make bench-detection ARGS='--only "*@mlp-digits" --split tuning'
make bench-detection ARGS='--published --seeds 3'      # programs after published fault lists
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from detection.bench import bench
from detection.case import Case, Split
from detection.controls import CONTROLS
from detection.faults import CASES
from detection.published import HEALTHY, PUBLISHED
from detection.report import data, text
from detection.train import Outcome


def main() -> None:
    args = arguments()
    started = time.perf_counter()
    lists = (PUBLISHED, HEALTHY) if args.published else (CASES, CONTROLS)
    cases, controls = (chosen(each.values(), args) for each in lists)
    print(
        f"{len(cases)} faults with twins, {len(controls)} controls, {args.seeds} seed(s)",
        flush=True,
    )
    result = bench(
        cases,
        controls,
        args.seeds,
        jobs=args.jobs,
        every=args.every,
        fixes=not args.published,
        progress=show if args.verbose else quiet,
        until=lambda: time.perf_counter() - started > 60 * args.minutes,
    )
    print(f"torch {torch.__version__}, python {platform.python_version()}\n")
    print(text(result))
    print(f"\n{time.perf_counter() - started:.0f} s")
    if args.json:
        args.json.write_text(json.dumps(data(result), indent=1, default=str))


def chosen(cases: Iterable[Case], args: argparse.Namespace) -> list[Case]:
    """Return the cases that the options select."""
    return [
        case
        for case in cases
        if fnmatchcase(case.name, args.only) and args.split in (None, case.base.split)
    ]


def show(outcome: Outcome) -> None:
    """Print one finished run."""
    headline = f"{outcome.headline.rule} at {outcome.headline.where}" if outcome.headline else "-"
    role = "repaired" if outcome.repaired else "faulty"
    print(
        f"{outcome.case:56} {role:8} {outcome.metric:9.4g} {outcome.verdict:9} "
        f"{outcome.first_alert_step!s:>5} {outcome.wall_s:5.2f} s  {headline} {outcome.error}",
        file=sys.stderr,
        flush=True,
    )


def quiet(_: Outcome) -> None:
    """Print nothing."""


def arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--published", action="store_true", help="the published fault list; fixes are not tried"
    )
    parser.add_argument("--only", default="*", help="glob of case names: *@mlp-digits")
    parser.add_argument("--split", choices=[*Split], help="tuning or held-out; default both")
    parser.add_argument("--seeds", type=int, default=1, help="5 for the published table")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--every", type=int, help="measure every n-th step; default: by budget")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after this time")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--verbose", action="store_true", help="one line for each run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
