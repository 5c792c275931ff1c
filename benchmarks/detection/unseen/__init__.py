"""The held-out part: architectures, data and faults that no rule was chosen on.

Start at programs.py. Importing this adds its programs to `BASES`; structure.py, steps.py,
losses.py and inputs.py hold its faults and look_alikes.py its controls.
"""

from detection.bases import BASES
from detection.unseen import models, programs, samples

__all__ = ["BASES", "models", "programs", "samples"]
