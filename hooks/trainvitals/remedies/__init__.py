"""Remedies as calls: initialise a model again, identify its initialisers.

Comes in: a model, a tensor, targets. Goes out: plans and advice with their reasons.
Promise:  a bad argument raises a clear error before anything is changed.
Start at `initialise`, `identify`, `biases` and `recommend_loss`.
"""

from trainvitals.remedies import biases
from trainvitals.remedies.advice import LossAdvice
from trainvitals.remedies.initialisation import initialise
from trainvitals.remedies.losses import recommend_loss
from trainvitals.remedies.plan import Plan, Row
from trainvitals.structure.identify import identify

__all__ = ["LossAdvice", "Plan", "Row", "biases", "identify", "initialise", "recommend_loss"]
