"""Write the generated pages: one for each rule, their index, the metrics, the guarantees.

python docs/generate.py            # write
python docs/generate.py --check    # exit 1 when a page is out of date
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import reliability
from trainvitals.api.schema import RulePage
from trainvitals.diagnosis.registry import all_rules
from trainvitals.diagnosis.rule import Rule
from trainvitals_server.publish import metrics

RULES = Path(__file__).parent / "rules"


def pages() -> dict[Path, str]:
    """Return path → text of every generated page."""
    rules = [type(rule) for rule in all_rules()]
    texts = {RULES / f"{rule.code}.md": rule_page(rule.page()) for rule in rules}
    texts[RULES / "README.md"] = index(rules)
    texts[RULES.with_name("metrics.md")] = metrics.page()
    texts[RULES.with_name("reliability.md")] = reliability.page()
    return texts


def rule_page(page: RulePage) -> str:
    """Return a rule's page as Markdown."""
    rows = "\n".join(
        f"| `{name}` | {threshold.default:g} | {threshold.meaning} |"
        for name, threshold in page.thresholds.items()
    )
    table = (
        f"## Thresholds\n\n| name | default | meaning |\n|---|---|---|\n{rows}\n\n" if rows else ""
    )
    refuted = f"## What would refute it\n\n{page.refuted_by}\n\n" if page.refuted_by else ""
    fix = f"```python\n{page.fix}\n```\n\n" if page.fix else ""
    return (
        f"<!-- written by docs/generate.py from the rule's docstring -->\n"
        f"# {page.code} {page.rule}\n\n{page.summary}\n\n"
        f"## What it detects\n\n{page.what_it_detects}\n\n"
        f"## Why it matters\n\n{page.why_it_matters}\n\n"
        f"## Evidence\n\n{page.evidence}\n\n"
        f"## What to do\n\n{page.what_to_do}\n\n{fix}"
        f"## When it is wrong\n\n{page.when_it_is_wrong}\n\n"
        f"{refuted}{table}"
        f"## References\n\n{page.references}\n"
    )


def index(rules: list[type[Rule]]) -> str:
    """Return the index of all rules."""
    rows = "\n".join(
        f"| [{rule.code}]({rule.code}.md) | {rule.name()} | {rule.stage} | {rule.page().summary} |"
        for rule in rules
    )
    return (
        "<!-- written by docs/generate.py -->\n# Rules\n\n"
        "Stages are the chain of causes: a finding of an earlier stage can explain one of a later "
        "stage.\n\n"
        f"| code | rule | stage | what it means |\n|---|---|---|---|\n{rows}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the generated pages.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    check = parser.parse_args().check
    wanted = pages()
    stale = [p for p, text in wanted.items() if not p.exists() or p.read_text() != text]
    stale += [p for p in RULES.glob("*.md") if p not in wanted]
    if check:
        if stale:
            sys.exit(f"Out of date: {', '.join(p.name for p in stale)}. Run `make docs`.")
        return
    RULES.mkdir(exist_ok=True)
    for path in stale:
        if path in wanted:
            path.write_text(wanted[path])
        else:
            path.unlink()


if __name__ == "__main__":
    main()
