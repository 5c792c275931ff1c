"""Format a diagnosis as text: a card for a terminal, one line for a log, JSON for programs.

Comes in: a `Diagnosis`, and for the card the curves of its evidence.
Goes out: strings; nothing here prints or reads the environment.
Promise:  control characters and markup in names of layers and runs are removed.
Start at `card.card`.
"""

from trainvitals.report.as_json import as_json
from trainvitals.report.card import card
from trainvitals.report.line import line

__all__ = ["as_json", "card", "line"]
