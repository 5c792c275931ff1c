"""Format a diagnosis as a card for a terminal: the finding, its place, its evidence, the advice.

Comes in: a `Diagnosis` and, if available, the curve of its headline's evidence.
Goes out: a string of lines of at most the given width, without colour by default.
Start at `card`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from textwrap import wrap

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trainvitals.api.schema import Diagnosis, Evidence, Finding, Severity, Verdict
from trainvitals.api.wording import age_text, number, percent, row
from trainvitals.diagnosis.history import Series
from trainvitals.report.checkup import checkup_rows, propagation_table
from trainvitals.report.curves import CurveKey, key_of
from trainvitals.report.line import verdict_text
from trainvitals.report.sparkline import sparkline
from trainvitals.report.text import at_place, clean, counted, prevented_text, shortened

Curves = Mapping[CurveKey, Series | None]

WIDTH_MIN = 40
LABEL_WIDTH = 9
CODE_INDENT = 4
LISTED_MAX = 3
STYLE = {Severity.INFO: "cyan", Severity.WARNING: "yellow", Severity.ERROR: "bold red"}
# Severities differ in symbol and word, not only in colour.
SYMBOL = {Severity.INFO: "i", Severity.WARNING: "!", Severity.ERROR: "✗"}

VERDICT = {
    Verdict.HEALTHY: ("✓", "bold green"),
    Verdict.TOO_EARLY: ("?", "yellow"),
    Verdict.BLIND: ("?", "bold yellow"),
    Verdict.FAILED: ("✗", "bold red"),
}
"""Symbol and style of a verdict without a headline."""


def card(
    diagnosis: Diagnosis,
    *,
    colour: bool = False,
    width: int = 80,
    curves: Curves | None = None,
    name: str = "",
) -> str:
    """Return the diagnosis as a card, ending in a line break.

    `width` counts terminal cells (at least 40); `colour` adds ANSI styles and is the caller's
    decision (a terminal, no NO_COLOR); `curves` are keyed by `report.curves.key_of(finding)`.
    `name` is the run's name, shown in place of its id; "": the id.
    """
    width = max(WIDTH_MIN, width)
    out = StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
        # Ignore the environment: the same diagnosis gives the same text everywhere.
        _environ={},
    )
    for part in _parts(diagnosis, width, curves or {}, name or diagnosis.run):
        console.print(part)
    # Tables pad their cells: remove the blanks at the end of lines.
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _parts(diagnosis: Diagnosis, width: int, curves: Curves, name: str) -> Iterator[RenderableType]:
    yield _title(diagnosis, width, name)
    if diagnosis.headline is None or diagnosis.verdict is Verdict.FAILED:
        symbol, style = VERDICT.get(diagnosis.verdict, ("?", "yellow"))
        yield Text(f"{symbol} {verdict_text(diagnosis)}", style)
    if diagnosis.headline is not None:
        yield from _headline(diagnosis.headline, diagnosis, width, curves)
    yield from _others(diagnosis)
    if diagnosis.checkup is not None and diagnosis.is_checkup:
        yield Text()
        if (table := propagation_table(diagnosis.checkup)) is not None:
            yield Padding(table, (0, 0, 1, 2))
        yield _rows(list(checkup_rows(diagnosis.checkup)))
    yield _rows(list(_footer(diagnosis)))
    yield Text("─" * width, "dim")


def _title(diagnosis: Diagnosis, width: int, name: str) -> Text:
    words = ["trainvitals"]
    if name:
        words.append(shortened(name, width // 3))
    if diagnosis.checkup is not None and diagnosis.is_checkup:
        words.append(f"checkup, {counted(diagnosis.checkup.batches, 'pass', 'passes')}")
    if diagnosis.step >= 0:
        words.append(f"step {diagnosis.step:,}")
    title = Text(f"── {' · '.join(words)} ", "dim")
    title.append("─" * max(0, width - cell_len(title.plain)))
    title.truncate(width)
    return title


def _headline(
    finding: Finding, diagnosis: Diagnosis, width: int, curves: Curves
) -> Iterator[RenderableType]:
    verdict_line = Text(
        f"{SYMBOL[finding.severity]} {finding.severity.upper()}  ", STYLE[finding.severity]
    )
    verdict_line.append(f"{clean(finding.code)} {clean(finding.rule)}", "bold")
    yield verdict_line
    is_checkup = diagnosis.is_checkup
    since = " before the training" if is_checkup else f" since step {finding.since_step:,}"
    sure = f"{percent(finding.confidence)} sure" if finding.confidence < 1 else ""
    about = (since, sure, age_text(finding, diagnosis.step))
    place = shortened(at_place(finding.where), width - 30)
    yield Text(f" {place}{', '.join(filter(None, about))}")
    yield Text()
    yield Text(clean(finding.summary))
    yield Text()
    if finding.evidence:
        yield Padding(_evidence(finding.evidence), (0, 0, 0, 2))
    curve = curves.get(key_of(finding))
    if curve is not None:
        yield from _curve(finding, curve, width)
    if finding.evidence or curve is not None:
        yield Text()
    rows = [("Why", finding.why), ("Do", finding.advice), ("Wrong if", finding.refuted_by)]
    yield _rows([(label, clean(text, lines=True)) for label, text in rows if text])
    if finding.fix:
        yield Text()
        for code in _code_lines(clean(finding.fix, lines=True), width - CODE_INDENT):
            yield Padding(Text(code, "green"), (0, 0, 0, CODE_INDENT))


def _code_lines(code: str, width: int) -> Iterator[str]:
    """Yield the lines of `code`; a comment line of more than `width` characters becomes several.

    Each of them begins with `#` and the indentation, so that the code can be copied and run. The
    comment behind a statement is shown above it if both have more than `width` characters.
    """
    for line in [part for whole in code.splitlines() for part in _behind(whole, width)]:
        comment = line.lstrip()
        if not comment.startswith("#") or len(line) <= width:
            yield line
            continue
        begin = f"{line[: len(line) - len(comment)]}# "
        text = comment.removeprefix("#").strip()
        yield from wrap(text, width, initial_indent=begin, subsequent_indent=begin)


def _behind(line: str, width: int) -> tuple[str, ...]:
    """Return a line as (comment, statement) if it is too long and ends in a comment."""
    statement, mark, comment = line.rpartition("  # ")
    if len(line) <= width or not statement.strip():
        return (line,)
    indentation = statement[: len(statement) - len(statement.lstrip())]
    return f"{indentation}{mark.strip()} {comment}", statement.rstrip()


def _evidence(evidence: Sequence[Evidence]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold")
    table.add_column(justify="right", overflow="fold")
    table.add_column(overflow="fold", style="dim")
    for item in evidence:
        shown = row(item)
        remarks = ", ".join(part for part in (shown.limit, shown.healthy) if part)
        if isinstance(item.seen, str):  # show text in the wide column
            remarks = f"{shown.seen} ({remarks})" if remarks else shown.seen
            table.add_row(Text(clean(shown.quantity)), Text(""), Text(clean(remarks)))
            continue
        seen = Text(clean(shown.seen), "bold")
        table.add_row(Text(clean(shown.quantity)), seen, Text(clean(remarks)))
    return table


def _curve(finding: Finding, series: Series, width: int) -> Iterator[RenderableType]:
    drawn = sparkline(series.values, min(48, width - 4))
    if not drawn:
        return
    finite = series.finite().values
    yield Text()
    yield Text(f"  {drawn}", STYLE[finding.severity])
    yield Text(
        f"  {clean(finding.stream)} {clean(finding.statistic)}, steps {int(series.steps[0]):,} to "
        f"{int(series.steps[-1]):,}, from {number(float(finite.min()))} to "
        f"{number(float(finite.max()))}",
        "dim",
    )


def _others(diagnosis: Diagnosis) -> Iterator[RenderableType]:
    headline = diagnosis.headline
    rest = [f for f in diagnosis.findings if f is not headline and f != headline]
    alarmed = [f for f in diagnosis.alarms if f in rest]
    explained = [f for f in alarmed if headline and f.explained_by == headline.code]
    roots = [f for f in alarmed if f not in explained]
    notes = [f for f in rest if f.is_open and f.severity is Severity.INFO]
    resolved = [f for f in rest if not f.is_open and f.severity is not Severity.INFO]
    groups = [
        ("Explains", explained),
        ("Also", roots),
        ("Notes", notes),
        ("Resolved", resolved),
    ]
    rows = [row for label, findings in groups for row in _listed(label, findings)]
    if rows:
        yield Text()
        yield _rows(rows)


def _listed(label: str, findings: list[Finding]) -> Iterator[tuple[str, str]]:
    for at, finding in enumerate(findings[:LISTED_MAX]):
        where = f" at {shortened(finding.where, 30)}" if finding.where else ""
        cause = f" (because of {clean(finding.explained_by)})" if finding.explained_by else ""
        because = cause if label == "Also" else ""
        yield (
            "" if at else label,
            f"{SYMBOL[finding.severity]} {clean(finding.code)} {clean(finding.rule)}{where}, "
            f"since step {finding.since_step:,}{because}",
        )
    if len(findings) > LISTED_MAX:
        yield "", f"and {len(findings) - LISTED_MAX:,} more"


def _footer(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    yield "", ""
    if diagnosis.blind and diagnosis.verdict is not Verdict.BLIND:
        yield "Blind", f"{counted(len(diagnosis.blind), 'rule')}: {clean(_blind(diagnosis))}"
    if diagnosis.watched:
        yield "Watched", counted(len(diagnosis.watched), "place")
    for at, (name, reason) in enumerate(list(diagnosis.not_watched.items())[:LISTED_MAX]):
        count = f"{len(diagnosis.not_watched):,}: " if at == 0 else ""
        yield "" if at else "Left out", f"{count}{shortened(name, 40)} ({clean(reason)})"
    if len(diagnosis.not_watched) > LISTED_MAX:
        yield "", f"and {len(diagnosis.not_watched) - LISTED_MAX:,} more"
    if diagnosis.missing:
        yield "Missing", clean(diagnosis.missing)
    if diagnosis.overhead is not None:
        note = f" ({clean(diagnosis.overhead_note)})" if diagnosis.overhead_note else ""
        yield "Overhead", f"{percent(diagnosis.overhead)} of training time{note}"
    if diagnosis.prevented is not None:
        yield "Guard", prevented_text(diagnosis.prevented)
    if diagnosis.step >= 0 or diagnosis.is_checkup:
        yield "Health", f"{diagnosis.health:.2f} of 1"


def _blind(diagnosis: Diagnosis) -> str:
    reasons: dict[str, list[str]] = {}
    for rule, reason in diagnosis.blind.items():
        reasons.setdefault(reason, []).append(rule)
    return "; ".join(f"{', '.join(rules)} ({reason})" for reason, rules in reasons.items())


def _rows(rows: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=LABEL_WIDTH, no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(Text(label), Text(text))
    return table
