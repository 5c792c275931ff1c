"""The held-out part: architectures, data and faults that no rule was chosen on.

Start at programs.py. Importing this adds its programs to `BASES`; the modules faults* and
look_alikes.py are imported by the lists of cases.
"""

from detection.bases import BASES
from detection.unseen import models, programs, samples

__all__ = ["BASES", "models", "programs", "samples"]
