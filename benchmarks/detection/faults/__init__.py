"""The fault cases, one module per group, and those of the parts. Importing this fills `CASES`."""

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
from detection.third_part import inputs as third_inputs
from detection.third_part import losses as third_losses
from detection.third_part import steps as third_steps
from detection.third_part import structure as third_structure
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
    "third_inputs",
    "third_losses",
    "third_steps",
    "third_structure",
    "usage",
    "wiring",
]
