"""The report of a bench as text and as JSON-ready data.

Comes in: a `Result`.
Goes out: `text` for people, `data` for programs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from detection.bench import Result
from detection.case import Class, Split
from detection.others import TOOLS
from detection.score import NO_FIX, PROVEN, Pair, Rate, Scores, place_of, scores
from detection.train import Outcome

COLUMNS: tuple[tuple[str, Callable[[Scores], str]], ...] = (
    ("pairs", lambda s: str(s.recall.of)),
    ("recall", lambda s: percent(s.recall)),
    ("open at end", lambda s: percent(s.open_at_end)),
    ("top-1", lambda s: percent(s.top1)),
    ("top-3", lambda s: percent(s.top3)),
    ("place", lambda s: percent(s.place)),
    ("fix", lambda s: percent(s.fix)),
    ("alert median", lambda s: f"{s.alert_median:.0f}"),
    ("alert p90", lambda s: f"{s.alert_p90:.0f}"),
    ("findings", lambda s: f"{s.findings_mean:.2f}"),
)


def text(result: Result) -> str:
    """Return the tables and the lists as plain text; the tables are Markdown."""
    groups = [("all", result.pairs)]
    groups += [(split, [p for p in result.pairs if p.split == split]) for split in Split]
    groups += [(kind, [p for p in result.pairs if p.kind == kind]) for kind in Class]
    lines = [_row("", *(name for name, _ in COLUMNS)), _row(*["---"] * (len(COLUMNS) + 1))]
    for name, pairs in groups:
        if pairs:
            figures = scores(pairs)
            lines.append(_row(name, *(show(figures) for _, show in COLUMNS)))
    lines += [
        "",
        _row("healthy runs flagged", "share and Wilson 95 % interval"),
        _row("---", "---"),
    ]
    lines += [_row(name, str(rate)) for name, rate in false_alarms(result).items()]
    lines += ["", _row("over all pairs", "share and Wilson 95 % interval"), _row("---", "---")]
    total = scores(result.pairs)
    for name, rate in (("recall", total.recall), ("top-1", total.top1), ("top-3", total.top3)):
        lines.append(_row(name, str(rate)))
    lines.append(_row("place", str(total.place)))
    lines.append(_row("fix proven, of the pairs with an acceptable headline", str(total.fix)))
    without = [pair for pair in result.pairs if pair.fix == NO_FIX]
    lines.append(_row("no fix offered", str(Rate(len(without), total.fix.of))))
    lines += ["", _row("tool: rule", "recall", "healthy runs flagged"), _row(*["---"] * 3)]
    lines += [_row(name, str(a), str(b)) for name, (a, b) in compared(result).items()]
    lines += _list("Missed: no alarm", missed(result))
    lines += _list("Misnamed: another cause in the headline", misnamed(result))
    lines += _list("Fix not proven", not_proven(result))
    lines += _list("False alarms", alarms(result))
    lines += _list("Not counted: the twin is not really better", result.not_counted)
    failed = [f"{o.case}: {o.error}" for o in result.outcomes if o.error]
    return "\n".join(lines + _list("Ended with an exception", failed))


def data(result: Result) -> dict[str, Any]:
    """Return figures, pairs and outcomes as JSON-ready data."""
    return {
        "scores": asdict(scores(result.pairs)),
        "false_alarms": {name: asdict(rate) for name, rate in false_alarms(result).items()},
        "pairs": [asdict(pair) for pair in result.pairs],
        "not_counted": result.not_counted,
        "outcomes": [asdict(outcome) for outcome in result.outcomes],
    }


def compared(result: Result) -> dict[str, tuple[Rate, Rate]]:
    """Return the recall and the healthy runs flagged, for trainvitals and for other tools.

    A tool flags a run if one of its rules does, at any step; the rows of single rules follow it.
    """
    faulty = [set(p.others) for p in result.pairs]
    healthy = [set(o.others) for o in result.healthy]
    found = Rate(sum(p.flagged for p in result.pairs), len(result.pairs))
    rows = {"trainvitals": (found, false_alarms(result)["all"])}
    for tool, rules in TOOLS.items():
        names = [f"{tool}: {rule}" for rule in rules]
        rows[tool] = (_any(names, faulty), _any(names, healthy))
        if len(names) > 1:
            rows |= {name: (_any([name], faulty), _any([name], healthy)) for name in names}
    return rows


def _any(names: Collection[str], runs: Sequence[Collection[str]]) -> Rate:
    return Rate(sum(any(name in run for name in names) for run in runs), len(runs))


def false_alarms(result: Result) -> dict[str, Rate]:
    """Return the rate of healthy runs with an alarm at any check, by kind of run and split."""
    twins = {pair.case for pair in result.pairs}
    groups: dict[str, Callable[[Outcome], bool]] = {
        "controls": lambda o: o.case not in twins,
        "twins": lambda o: o.case in twins,
        "tuning": lambda o: result.splits[o.case] == Split.TUNING,
        "held-out": lambda o: result.splits[o.case] == Split.HELD_OUT,
        "all": lambda _: True,
    }
    rates = {}
    for name, belongs in groups.items():
        judged = [bool(o.alarms) for o in result.healthy if belongs(o)]
        rates[name] = Rate(sum(judged), len(judged))
    judged = [o.headline is not None for o in result.healthy]
    return rates | {"all, still flagged at the end": Rate(sum(judged), len(judged))}


def missed(result: Result) -> list[str]:
    """Return the faults that no alarm showed, and the verdict at the end."""
    return [f"{p.kind}: {p.case}: {p.verdict}" for p in result.pairs if not p.flagged]


def misnamed(result: Result) -> list[str]:
    """Return the flagged faults whose headline names no acceptable cause."""
    wrong: Iterable[Pair] = (p for p in result.pairs if p.flagged and not p.top1)
    return [f"{p.kind}: {p.case}: {p.headline or 'nothing open at the end'}" for p in wrong]


def not_proven(result: Result) -> list[str]:
    """Return the pairs with an acceptable headline whose fix is not proven, and why."""
    found = [p for p in result.pairs if p.fix not in (None, PROVEN)]
    return [f"{p.kind}: {p.case}: {p.headline}: {p.fix}" for p in found]


def alarms(result: Result) -> list[str]:
    """Return the healthy runs with an alarm, and the alarms."""
    twins = {pair.case for pair in result.pairs}
    return [
        f"{'twin of ' * (o.case in twins)}{o.case}: "
        + ", ".join(a.rule + place_of(a) for a in o.alarms[:4])
        for o in result.healthy
        if o.alarms
    ]


def percent(rate: Rate) -> str:
    """Return a share in whole percent; a dash without observations."""
    return f"{rate.share:.0%}" if rate.of else "–"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _list(title: str, entries: Sequence[str]) -> list[str]:
    return ["", f"{title} ({len(entries)})", *(f"- {entry}" for entry in sorted(entries))]
