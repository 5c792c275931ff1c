"""Format a diagnosis as one HTML page: verdict, findings, curves, the state before the training.

Comes in: a `Diagnosis`, and the curves by `report.curves.CurveKey`.
Goes out: a page without scripts that loads no other files (its Content-Security-Policy forbids it)
          and follows the browser's light or dark setting.
Promise:  names and texts of the run are escaped.
Start at `as_html`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape

import numpy as np

from trainvitals.api.schema import Checkup, Diagnosis, Finding, PropagatedLayer, Severity, Verdict
from trainvitals.api.wording import age_text, initialiser_text, number, percent, row
from trainvitals.diagnosis.history import Series
from trainvitals.report.checkup import checkup_rows
from trainvitals.report.curves import CurveKey, key_of
from trainvitals.report.line import verdict_text
from trainvitals.report.page_style import document
from trainvitals.report.svg import Line, Marker, plot
from trainvitals.report.text import at_place, clean, prevented_text
from trainvitals.wire import Stream

MARKERS_MAX = 8
FINDINGS_MAX = 200
"""Maximum number of open findings, and of resolved ones."""
ROWS_MAX = 500
"""Maximum number of rows of a table of parameters, layers or reasons."""
TITLES = {
    "loss": "Loss",
    "learning_rate": "Learning rate",
    "gradient_norm": "Gradient norm",
}
"""Scalars that are drawn: the base name → the title. `loss/validation` is drawn with `loss`."""
CLASS = {
    Verdict.HEALTHY: "good",
    Verdict.ERROR: "error",
    Verdict.FAILED: "error",
    Verdict.WARNING: "warning",
    Verdict.BLIND: "warning",
    Verdict.TOO_EARLY: "warning",
}
WORD = {Verdict.TOO_EARLY: "Too early to say"}


def as_html(
    diagnosis: Diagnosis, curves: Mapping[CurveKey, Series] | None = None, *, name: str = ""
) -> str:
    """Return the diagnosis as a page. `curves`: `report.curves.page_curves`; `name` of the run."""
    known = curves or {}
    shown = name or diagnosis.run or ("Checkup" if diagnosis.is_checkup else "Run")
    parts = [
        f"<h1>{_text(shown)}</h1>",
        _verdict(diagnosis),
        *_findings(diagnosis, known),
        _section("Curves", _figures("plots", _scalars(diagnosis, known))),
        *_before_training(diagnosis.checkup),
        *_coverage(diagnosis),
    ]
    return document(clean(shown), "".join(parts))


def _verdict(diagnosis: Diagnosis) -> str:
    word = WORD.get(diagnosis.verdict, diagnosis.verdict.value.capitalize())
    sentence = verdict_text(diagnosis)
    if diagnosis.headline is not None and diagnosis.verdict is not Verdict.FAILED:
        age = age_text(diagnosis.headline, diagnosis.step)
        sentence = f"{diagnosis.headline.summary} ({age})" if age else diagnosis.headline.summary
    facts = [("Run", diagnosis.run)] if diagnosis.run else []
    if diagnosis.step >= 0:
        facts.append(("Last step", f"{diagnosis.step:,}"))
    facts.append(("Health", f"{diagnosis.health:.2f} of 1"))
    if diagnosis.overhead is not None:
        note = f" ({diagnosis.overhead_note})" if diagnosis.overhead_note else ""
        facts.append(("Own cost", f"{percent(diagnosis.overhead)} of training time{note}"))
    if diagnosis.prevented is not None:
        facts.append(("Guard", prevented_text(diagnosis.prevented)))
    return (
        f'<div class="card {CLASS[diagnosis.verdict]}"><span class="word">{word}</span>'
        f"<p>{_text(sentence)}</p>{_facts(facts)}</div>"
    )


def _findings(diagnosis: Diagnosis, curves: Mapping[CurveKey, Series]) -> Iterator[str]:
    headline = diagnosis.headline
    first = [] if headline is None else [headline]
    rest = [f for f in diagnosis.findings if f != headline]
    opened = [*first, *(f for f in rest if f.is_open)]
    yield _section("Findings", _articles(opened, curves, diagnosis))
    resolved = [f for f in rest if not f.is_open]
    yield _section("Resolved", _articles(resolved, curves, diagnosis))


def _articles(
    findings: Sequence[Finding], curves: Mapping[CurveKey, Series], diagnosis: Diagnosis
) -> str:
    shown = "".join(_finding(f, curves, diagnosis) for f in findings[:FINDINGS_MAX])
    more = len(findings) - FINDINGS_MAX
    return f"{shown}<p>and {more:,} more</p>" if more > 0 else shown


def _finding(finding: Finding, curves: Mapping[CurveKey, Series], diagnosis: Diagnosis) -> str:
    is_before = diagnosis.is_checkup
    since = "before the training" if is_before else f"since step {finding.since_step:,}"
    about = [f"{at_place(finding.where).strip()} {since}".strip()]
    if finding.confidence < 1:
        about.append(f"{percent(finding.confidence)} sure")
    if finding.explained_by:
        about.append(f"because of {finding.explained_by}")
    if age := age_text(finding, diagnosis.step):
        about.append(age)
    if not finding.is_open:
        about.append(f"resolved; last seen at step {finding.last_step:,}")
    texts = [
        ("Why it matters", prose(finding.why)),
        ("What to do", prose(finding.advice)),
        ("Fix", f"<pre><code>{escape(clean(finding.fix, lines=True))}</code></pre>"),
        ("Wrong if", prose(finding.refuted_by)),
    ]
    given = (finding.why, finding.advice, finding.fix, finding.refuted_by)
    body = "".join(
        f"<p><b>{title}</b></p>{text}" for (title, text), g in zip(texts, given, strict=True) if g
    )
    return (
        f'<article class="card {finding.severity}"><h3><b class="{finding.severity}">'
        f"{finding.severity.capitalize()}</b> {_text(finding.code)} {_text(finding.rule)}</h3>"
        f'<p class="dim">{_text(", ".join(about))}</p><p>{_text(finding.summary)}</p>'
        f"{_evidence(finding)}{_evidence_curve(finding, curves)}{body}</article>"
    )


def _evidence(finding: Finding) -> str:
    rows = [row(evidence) for evidence in finding.evidence]
    if not rows:
        return ""
    body = "".join(
        f'<tr><td>{_text(r.quantity)}</td><td class="n">{_text(r.seen)}</td>'
        f'<td class="dim">{_text(", ".join(filter(None, (r.limit, r.healthy))))}</td></tr>'
        for r in rows
    )
    return (
        '<table class="evidence"><thead><tr><th>Quantity</th><th>Seen</th><th>Limit</th></tr>'
        f"</thead><tbody>{body}</tbody></table>"
    )


def _evidence_curve(finding: Finding, curves: Mapping[CurveKey, Series]) -> str:
    series = curves.get(key_of(finding))
    if series is None or finding.stream == Stream.SCALAR:
        return ""  # scalars are drawn with the other curves
    title = f"{finding.statistic} of {finding.stream}{at_place(finding.where)}"
    image = plot([_line(title, series)], title=title, x_name="step", markers=_markers([finding]))
    return f"<figure>{image}<figcaption>{_text(title)}</figcaption></figure>" if image else ""


def _scalars(diagnosis: Diagnosis, curves: Mapping[CurveKey, Series]) -> Iterator[tuple[str, str]]:
    markers = _markers([f for f in diagnosis.open if f.is_alarm])
    scalars = {key[1]: series for key, series in curves.items() if key[0] == Stream.SCALAR}
    drawn = {name.partition("/")[0] for name in scalars}
    bases = [*TITLES, *sorted(drawn - set(TITLES))]
    for base in bases:
        lines = [
            _line(name, series)
            for name, series in scalars.items()
            if name == base or name.startswith(f"{base}/")
        ]
        title = TITLES.get(base, base)
        image = plot(
            lines,
            title=title,
            x_name="step",
            markers=markers,
            may_be_log=base != "learning_rate",  # the shape of a schedule is linear
        )
        yield image, _caption(title, lines, markers)


def _before_training(checkup: Checkup | None) -> Iterator[str]:
    if checkup is None:
        return
    facts = [(k, v) for k, v in checkup_rows(checkup) if k not in ("Initial", "")]
    figures = _figures("plots", _propagation(checkup.propagation))
    layers = [
        (layer.layer, *map(number, (layer.S, layer.M, layer.gradient_rms)))
        for layer in checkup.propagation
    ]
    initial = [
        (name, initialiser_text(i), percent(i.confidence or None))
        for name, i in checkup.initialisers.items()
    ]
    body = (
        (f'<div class="card">{_facts(facts)}</div>' if facts else "")
        + figures
        + _details("Layers", ("Layer", "S", "M", "Gradient RMS"), layers)
        + _details("Initialisation", ("Parameter", "Initialiser", "Sure"), initial, is_open=True)
    )
    yield _section("Before the training", body)


def _propagation(layers: Sequence[PropagatedLayer]) -> Iterator[tuple[str, str]]:
    depth = np.arange(len(layers), dtype=np.float64)
    if len(depth) < 2:
        return
    lines = [
        Line("S, standard deviation across samples", depth, _column([x.S for x in layers])),
        Line("M, spread of the units' means", depth, _column([x.M for x in layers])),
    ]
    title = "Signal over depth"
    yield plot(lines, title=title, x_name="layer"), _caption(title, lines)
    known = [(i, x.gradient_rms) for i, x in enumerate(layers) if x.gradient_rms is not None]
    if len(known) > 1:
        line = Line(
            "gradient RMS", np.array([i for i, _ in known], float), _column([g for _, g in known])
        )
        title = "Gradient RMS over depth"
        yield plot([line], title=title, x_name="layer"), _caption(title, [line])


def _column(values: Sequence[float | None]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([np.nan if v is None else v for v in values], np.float64)


def _coverage(diagnosis: Diagnosis) -> Iterator[str]:
    body = _details("Rules that could not run", ("Rule", "Reason"), list(diagnosis.blind.items()))
    body += _details("Not watched", ("Name", "Reason"), list(diagnosis.not_watched.items()))
    body += _details("Watched", ("Name",), [(name,) for name in diagnosis.watched])
    yield _section("What was watched", body)


# Building blocks.


def prose(text: str) -> str:
    """Return the Markdown that rules use (paragraphs, `- ` lists, `code`) as escaped HTML."""
    parts: list[str] = []
    for paragraph in clean(text, lines=True).split("\n"):
        inline = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(paragraph.strip()))
        if not inline:
            continue
        if inline.startswith(("- ", "* ")):
            opened = bool(parts) and parts[-1].endswith("</ul>")
            head = parts.pop().removesuffix("</ul>") if opened else "<ul>"
            parts.append(f"{head}<li>{inline[2:]}</li></ul>")
        else:
            parts.append(f"<p>{inline}</p>")
    return "".join(parts)


def _markers(findings: Sequence[Finding]) -> list[Marker]:
    worst = sorted(findings, key=lambda f: -f.severity.rank)[:MARKERS_MAX]
    return [Marker(f.since_step, f"{f.code} {f.rule}", Severity(f.severity).value) for f in worst]


def _line(name: str, series: Series) -> Line:
    return Line(name, series.steps.astype(np.float64), series.values.astype(np.float64))


def _caption(title: str, lines: Sequence[Line], markers: Sequence[Marker] = ()) -> str:
    keys = ""
    if len(lines) > 1:
        keys = "".join(
            f'<span><i class="key c{i % 6}"></i>{_text(line.name)}</span> '
            for i, line in enumerate(lines)
        )
    inside = [m for m in markers if any(len(x.x) and x.x[0] <= m.x <= x.x[-1] for x in lines)]
    found = ", ".join(f"{m.text.partition(' ')[0]} at step {int(m.x):,}" for m in inside)
    marked = f'<br><span class="dim">Dashed: {_text(found)}</span>' if found else ""
    return f"<b>{_text(title)}</b>{keys}{marked}"


def _figures(kind: str, figures: Iterator[tuple[str, str]]) -> str:
    drawn = [
        f"<figure><figcaption>{caption}</figcaption>{image}</figure>"
        for image, caption in figures
        if image
    ]
    return f'<div class="{kind}">{"".join(drawn)}</div>' if drawn else ""


def _details(
    title: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    is_open: bool = False,
) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{h}</th>" for h in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in cells)}</tr>"
        for cells in rows[:ROWS_MAX]
    )
    more = f"<p>and {len(rows) - ROWS_MAX:,} more</p>" if len(rows) > ROWS_MAX else ""
    return (
        f"<details{' open' if is_open else ''}><summary>{title} ({len(rows):,})</summary><table>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}</details>"
    )


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{k}</dt><dd>{_text(v)}</dd>' for k, v in facts)}</dl>"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _text(text: str) -> str:
    return escape(clean(text))
