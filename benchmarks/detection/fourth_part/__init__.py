"""The fourth part: it was held out until its misses were read.

Start at programs.py. Importing this adds its programs to `BASES`; structure.py, steps.py,
losses.py and inputs.py hold its faults and look_alikes.py its controls.
"""

from detection.bases import BASES
from detection.fourth_part import models, programs, samples

__all__ = ["BASES", "models", "programs", "samples"]
