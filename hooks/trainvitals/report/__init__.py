"""Format a diagnosis: a card for a terminal, one line for a log, JSON for programs, an HTML page.

Comes in: a `Diagnosis`, and for the card the curves of its evidence.
Goes out: strings; nothing here prints or reads the environment.
Promise:  control characters and markup in names of layers and runs are removed.
Start at `card.card`.
"""

from trainvitals.report import load_rich  # noqa: F401 - before any other import of rich
from trainvitals.report.as_json import as_json
from trainvitals.report.card import card
from trainvitals.report.html import as_html
from trainvitals.report.line import line

__all__ = ["as_html", "as_json", "card", "line"]
