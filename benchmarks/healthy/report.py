"""The outcomes as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from detection.score import Rate
from healthy.runner import Outcome, load


def text(outcomes: Sequence[Outcome]) -> str:
    """Return the tables in Markdown; shares are over the runs that learned."""
    counted = [o for o in outcomes if o.learned]
    lines = [
        "| healthy runs | share and Wilson 95 % interval |",
        "| --- | --- |",
        f"| flagged at any check | {_rate([o.is_flagged for o in counted])} |",
        f"| flagged by an error | {_rate([_has_error(o) for o in counted])} |",
        f"| flagged at the end | {_rate([o.is_flagged_at_end for o in counted])} |",
        f"| programs with a flagged run | {_rate(_flagged_programs(counted))} |",
        "",
        "| program | metric | healthy from | measured | runs | flagged | at the end |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, group in groupby((o for o in outcomes if not o.error), key=lambda o: o.program):
        program, runs = load(name), list(group)
        good = [o for o in runs if o.learned]
        measured = ", ".join(f"{o.metric:.3g}" for o in runs)
        flagged, at_end = (sum(map(of, good)) for of in (_is_flagged, _is_flagged_at_end))
        lines.append(
            f"| {name} | {program.metric} | {program.healthy} | {measured} | {len(good)} | "
            f"{flagged} | {at_end} |"
        )
    lines += ["", *(_finding(o, alarm) for o in counted for alarm in o.alarms)]
    lines += [
        f"- Not counted: {o.program} ({o.setting}): {o.error or f'metric {o.metric:.3g}'}"
        for o in outcomes
        if not o.learned
    ]
    return "\n".join(lines)


def data(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return everything for a JSON file."""
    counted = [o for o in outcomes if o.learned]
    return {
        "counted": len(counted),
        "not_counted": len(outcomes) - len(counted),
        "flagged": sum(o.is_flagged for o in counted),
        "flagged_at_end": sum(o.is_flagged_at_end for o in counted),
        "runs": [asdict(o) for o in outcomes],
    }


def _finding(outcome: Outcome, alarm: Any) -> str:
    end = "open at the end" if alarm.open_at_end else "resolved"
    return (
        f"- {outcome.program} ({outcome.setting}): {alarm.code} {alarm.rule}, {alarm.severity}, at "
        f"{alarm.where or 'the run'}, after step {alarm.step}, {end}. {alarm.summary}"
    )


def _rate(flags: Sequence[bool]) -> Rate:
    return Rate(sum(flags), len(flags))


def _flagged_programs(counted: Sequence[Outcome]) -> list[bool]:
    return [
        any(o.is_flagged for o in group)
        for _, group in groupby(counted, key=lambda outcome: outcome.program)
    ]


def _is_flagged(outcome: Outcome) -> bool:
    return outcome.is_flagged


def _is_flagged_at_end(outcome: Outcome) -> bool:
    return outcome.is_flagged_at_end


def _has_error(outcome: Outcome) -> bool:
    return any(alarm.severity == "error" for alarm in outcome.alarms)
