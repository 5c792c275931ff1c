"""The fault cases, one module per group of classes. Importing this fills `CASES`."""

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

__all__ = [
    "CASES",
    "data",
    "flow",
    "initialisation",
    "loss",
    "numeric",
    "optimizer",
    "pairing",
    "silent",
    "usage",
    "wiring",
]
