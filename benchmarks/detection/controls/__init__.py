"""The healthy controls. Importing this fills `CONTROLS`."""

from detection.controls import common, look_alikes
from detection.controls.register import CONTROLS
from detection.fourth_part import look_alikes as fourth_look_alikes
from detection.third_part import look_alikes as third_look_alikes
from detection.unseen import look_alikes as unseen_look_alikes

__all__ = [
    "CONTROLS",
    "common",
    "fourth_look_alikes",
    "look_alikes",
    "third_look_alikes",
    "unseen_look_alikes",
]
