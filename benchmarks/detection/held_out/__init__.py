"""The held-out programs: architectures and data that no rule was chosen on.

Start at programs.py. Importing this adds them to `BASES`.
"""

from detection.bases import BASES
from detection.held_out import models, programs, samples

__all__ = ["BASES", "models", "programs", "samples"]
