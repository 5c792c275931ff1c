"""The healthy controls. Importing this fills `CONTROLS`."""

from detection.controls import common, look_alikes
from detection.controls.register import CONTROLS

__all__ = ["CONTROLS", "common", "look_alikes"]
