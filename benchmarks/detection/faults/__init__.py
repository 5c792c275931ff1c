"""The fault cases, one module per group, and those of unseen/. Importing this fills `CASES`."""

from detection.faults import (
    data,
    flow,
    initialisation,
    loss,
    numeric,
    optimizer,
    pairing,
    silent,
    usage,
    wiring,
)
from detection.faults.register import CASES
from detection.unseen import inputs, losses, steps, structure

__all__ = [
    "CASES",
    "data",
    "flow",
    "initialisation",
    "inputs",
    "loss",
    "losses",
    "numeric",
    "optimizer",
    "pairing",
    "silent",
    "steps",
    "structure",
    "usage",
    "wiring",
]
