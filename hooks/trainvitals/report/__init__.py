"""A diagnosis as text: the card of a terminal, one line for a log, JSON for a machine.

Comes in: a `Diagnosis`, and for the card the curves of its evidence.
Goes out: strings; nothing here prints, knows a terminal or reads the environment.
Promise:  names are other people's text: no control character and no markup of theirs gets out.
Start at `card.card`.
"""

from trainvitals.report.as_json import as_json
from trainvitals.report.card import card
from trainvitals.report.line import line

__all__ = ["as_json", "card", "line"]
