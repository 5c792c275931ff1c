"""Format a diagnosis as JUnit XML, which CI systems show as test results.

Comes in: a `Diagnosis`, the rules, and the lowest severity that fails. Goes out: XML.
Format:   the elements that Jenkins, GitLab and GitHub's reporters read (testsuites, testsuite,
          testcase, failure, error, skipped, system-out).
"""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from trainvitals.api.schema import Diagnosis, Finding, Severity, Verdict
from trainvitals.api.wording import age_text, row
from trainvitals.report.line import line
from trainvitals.report.text import at_place, clean

UNSURE = (Verdict.BLIND, Verdict.TOO_EARLY)


def as_junit(
    diagnosis: Diagnosis, rules: Iterable[tuple[str, str]], fail_from: Severity | None
) -> str:
    """Return the diagnosis as XML: a test case for the verdict and one for each rule.

    `rules` are (code, name). A rule has a failure for each open finding of at least `fail_from`
    (None: no failure), is skipped if it could not run, and has the other open findings as output.
    The case of the verdict has an error if the run failed, and a failure if it is not known to be
    healthy because rules were blind or had too few steps.
    """
    known = dict(rules)
    known |= {f.code: f.rule for f in diagnosis.open if f.code not in known}
    suites = Element("testsuites")
    suite = SubElement(suites, "testsuite", name=clean(f"trainvitals {diagnosis.run}".strip()))
    _verdict(suite, diagnosis, fails=fail_from is not None)
    for code, name in sorted(known.items()):
        _rule(suite, code, name, diagnosis, fail_from)
    for kind, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(kind, str(sum(case.find(tag) is not None for case in suite)))
    suite.set("tests", str(len(suite)))
    indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(suites, encoding="unicode")}\n'


def _verdict(suite: Element, diagnosis: Diagnosis, *, fails: bool) -> None:
    case = SubElement(suite, "testcase", classname="trainvitals", name="verdict")
    message = line(diagnosis)
    if diagnosis.verdict is Verdict.FAILED and fails:
        SubElement(case, "error", message=message, type="failed")
    elif diagnosis.verdict in UNSURE and fails:
        SubElement(case, "failure", message=message, type=diagnosis.verdict.value)
    else:
        SubElement(case, "system-out").text = message


def _rule(
    suite: Element, code: str, name: str, diagnosis: Diagnosis, fail_from: Severity | None
) -> None:
    case = SubElement(
        suite, "testcase", classname="trainvitals.rules", name=clean(f"{code} {name}")
    )
    found = [f for f in diagnosis.open if f.code == code]
    notes = []
    for finding in found:
        if fail_from is not None and finding.severity.rank >= fail_from.rank:
            message = f"{at_place(finding.where).strip()} {clean(finding.summary)}".strip()
            SubElement(
                case, "failure", message=message, type=finding.severity.value
            ).text = _explained(finding, diagnosis.step)
        else:
            notes.append(_explained(finding, diagnosis.step))
    if not found and name in diagnosis.blind:
        SubElement(case, "skipped", message=clean(diagnosis.blind[name]))
    if notes:
        SubElement(case, "system-out").text = "\n\n".join(notes)


def _explained(finding: Finding, step: int) -> str:
    """Return summary, evidence, advice and fix in lines; `step` is the last one of the run."""
    rows = map(row, finding.evidence)
    facts = [f"{r.quantity}: {', '.join(filter(None, (r.seen, r.limit, r.healthy)))}" for r in rows]
    about = f"{finding.severity.upper()}{at_place(finding.where)} since step {finding.since_step:,}"
    cause = [f"Because of {finding.explained_by}."] if finding.explained_by else []
    if age := age_text(finding, step):
        about += f", {age}"
    lines = [about, finding.summary, *facts, *cause, finding.advice, finding.fix]
    return clean("\n".join(filter(None, lines)), lines=True)
