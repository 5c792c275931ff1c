"""Put the chart board into the HTML report of a run.

Comes in: the report from the collector, which has its curves as images; a message to the board.
Goes out: the report with the board's script and data. It loads no other file: its
          Content-Security-Policy allows this one script, by its hash.
Promise:  texts of the run are data of the script, never HTML; without scripts the images stay.
"""

from __future__ import annotations

import base64
import hashlib
import json

from trainvitals_dashboard.figures.charts import Part

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The policy of a report without scripts, as `trainvitals.report.page_style` writes it."""
CURVES = "<h2>Curves</h2>"
"""The heading of the images that the board replaces."""
END = "</body>"
HOST = """<style>#board{--st-text-color:var(--text);--st-background-color:var(--back);\
--st-secondary-background-color:var(--panel);--st-border-color:var(--edge);\
--st-primary-color:var(--c0);--st-font:system-ui,sans-serif}</style><div id="board"></div>"""


def with_board(page: str, message: Part, script: str) -> str:
    """Return the report with the charts of a message, drawn by the bundle `script` of the board.

    A page that is not such a report (from another version of the collector) or has no curves is
    returned as it is.
    """
    parts = (POLICY, CURVES, END)
    if any(page.count(part) != 1 for part in parts) or "</script" in script.lower():
        return page
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # "<" could end the element or begin a comment in it.
    data = json.dumps(message, allow_nan=False).replace("<", "\\u003c")
    scripts = (
        f'<script type="application/json" id="board-data">{data}</script>'
        f'<script type="module">{script}</script>'
    )
    page = page.replace(POLICY, f"{POLICY}; script-src 'sha256-{digest}'")
    page = page.replace(CURVES, CURVES + HOST)
    return page.replace(END, scripts + END)
