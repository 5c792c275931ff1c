"""Run cases in one or several processes and judge the outcomes.

Comes in: cases, controls and seeds.
Goes out: `Result`. A fault whose twin is not really better is left out of the scores and listed.
"""

from __future__ import annotations

import multiprocessing
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from detection.case import ANYWHERE, Case
from detection.score import NO_FIX, PROVEN, TOP, Pair, in_top, is_better, place_of, place_right
from detection.train import Outcome, run, with_second

Job = tuple[Case, int, bool]


@dataclass
class Result:
    """The data of the report."""

    pairs: list[Pair] = field(default_factory=list)
    healthy: list[Outcome] = field(default_factory=list)
    """Controls and the twins of counted pairs."""
    splits: dict[str, str] = field(default_factory=dict)
    """Case name → split."""
    not_counted: list[str] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)


def bench(
    cases: Sequence[Case],
    controls: Sequence[Case],
    seeds: int,
    *,
    jobs: int = 1,
    every: int | None = None,
    fixes: bool = True,
    progress: Callable[[Outcome], None] = lambda _: None,
    until: Callable[[], bool] = lambda: False,
) -> Result:
    """Run every case with its twin, and every control, with the seeds 0 to `seeds` − 1.

    The order is random with a fixed seed; `until` ends the bench after a finished run, and the
    result then covers a random part of the cases, those that are complete. `fixes`: train once
    more with the fix of an acceptable headline.
    """
    mixed = [*cases, *controls]
    random.Random(0).shuffle(mixed)
    work = [job for case in mixed for job in _jobs(case, seeds)]
    outcomes = []
    for outcome in _run_all(work, jobs, partial(_run, every=every, fixes=fixes)):
        progress(outcome)
        outcomes.append(outcome)
        if until():
            break
    runs = Counter(outcome.case for outcome in outcomes)
    complete = [case for case in mixed if runs[case.name] == len(_jobs(case, seeds))]
    return judge(complete, outcomes, fixes=fixes)


def judge(cases: Sequence[Case], outcomes: Iterable[Outcome], *, fixes: bool = True) -> Result:
    """Return the result of the cases and controls whose runs are finished.

    `fixes`: whether the fixes were tried; otherwise no pair has a result of its fix.
    """
    result = Result(outcomes=[*outcomes])
    by_case: dict[str, list[Outcome]] = {}
    for outcome in result.outcomes:
        by_case.setdefault(outcome.case, []).append(outcome)
    for case in cases:
        result.splits[case.name] = case.base.split
        faulty = [o for o in by_case[case.name] if not o.repaired]
        twins = [o for o in by_case[case.name] if o.repaired]
        if case.fault is None:
            result.healthy += twins
        elif is_better([o.metric for o in faulty], [o.metric for o in twins]):
            pairs = [pair(case, outcome) for outcome in faulty]
            result.pairs += pairs if fixes else [replace(one, fix=None) for one in pairs]
            result.healthy += twins
        else:
            figures = f"faulty {_mean(faulty):.3g}, twin {_mean(twins):.3g}"
            result.not_counted.append(f"{case.name} ({figures})")
    return result


def pair(case: Case, outcome: Outcome) -> Pair:
    """Judge one faulty run against the case's acceptable causes and places."""
    assert case.fault is not None
    headline, first = outcome.headline, outcome.first_alert_step
    placed = outcome.places != ANYWHERE
    return Pair(
        case=case.name,
        kind=case.kind,
        split=case.base.split,
        # An alarm before the onset is false; it is no detection of this fault.
        flagged=first is not None and first >= case.fault.onset,
        open_at_end=headline is not None,
        top1=headline is not None and headline.rule in case.causes,
        top3=in_top(outcome.roots, case.causes, TOP),
        place=place_right(headline, case.causes, outcome.places) if placed else None,
        steps_to_alert=(
            None if first is None or first < case.fault.onset else first - case.fault.onset
        ),
        findings=len(outcome.roots),
        headline=headline.rule + place_of(headline) if headline else "",
        verdict=outcome.verdict,
        fix=fix_result(case, outcome),
        others=outcome.others,
    )


def fix_result(case: Case, outcome: Outcome) -> str | None:
    """Return the result of the headline's fix: `PROVEN`, `NO_FIX`, or the reason why it is not
    proven.

    None if the headline names no acceptable cause. Proven: the second training has no open alarm
    at the end, and its metric is at most 90 % of the faulty run's, as for a twin.
    """
    if outcome.headline is None or outcome.headline.rule not in case.causes:
        return None
    second = outcome.second
    if second is None:
        return NO_FIX
    if second.error:
        return f"raised {second.error}"
    if not is_better([outcome.metric], [second.metric]):
        return f"no better: {outcome.metric:.3g}, then {second.metric:.3g}"
    if second.headline is not None:
        return f"still open: {second.headline.rule}{place_of(second.headline)}"
    return PROVEN


def _jobs(case: Case, seeds: int) -> list[Job]:
    roles = (True,) if case.fault is None else (False, True)
    return [(case, seed, repaired) for seed in range(seeds) for repaired in roles]


def _run_all(work: Sequence[Job], jobs: int, one: Callable[[Job], Outcome]) -> Iterable[Outcome]:
    if jobs == 1:
        yield from map(one, work)
        return
    # Forked, because the monitor of a spawned child stays off: it is no training of its own. And a
    # child inherits the work: the functions of a case cannot be pickled.
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(jobs, context, _inherit, (work, one))
    try:
        yield from pool.map(_run_inherited, range(len(work)))
    finally:
        pool.shutdown(cancel_futures=True)


_inherited: tuple[Sequence[Job], Callable[[Job], Outcome]]


def _inherit(work: Sequence[Job], one: Callable[[Job], Outcome]) -> None:
    global _inherited
    _inherited = work, one


def _run_inherited(index: int) -> Outcome:
    work, one = _inherited
    return one(work[index])


def _run(job: Job, every: int | None, fixes: bool) -> Outcome:
    torch.set_num_threads(1)
    case, seed, repaired = job
    if repaired or not fixes:
        return run(case, seed, repaired=repaired, every=every)
    return with_second(case, seed, every)


def _mean(outcomes: Sequence[Outcome]) -> float:
    return sum(outcome.metric for outcome in outcomes) / len(outcomes)
