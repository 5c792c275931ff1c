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
from detection.fourth_part import inputs as fourth_inputs
from detection.fourth_part import losses as fourth_losses
from detection.fourth_part import steps as fourth_steps
from detection.fourth_part import structure as fourth_structure
from detection.third_part import inputs as third_inputs
from detection.third_part import losses as third_losses
from detection.third_part import steps as third_steps
from detection.third_part import structure as third_structure
from detection.unseen import inputs as unseen_inputs
from detection.unseen import losses as unseen_losses
from detection.unseen import steps as unseen_steps
from detection.unseen import structure as unseen_structure
from detection.unseen import wiring as unseen_wiring

__all__ = [
    "CASES",
    "data",
    "flow",
    "fourth_inputs",
    "fourth_losses",
    "fourth_steps",
    "fourth_structure",
    "initialisation",
    "loss",
    "numeric",
    "optimizer",
    "pairing",
    "silent",
    "third_inputs",
    "third_losses",
    "third_steps",
    "third_structure",
    "unseen_inputs",
    "unseen_losses",
    "unseen_steps",
    "unseen_structure",
    "unseen_wiring",
    "usage",
    "wiring",
]
