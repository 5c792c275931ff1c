"""The second part of the tuning programs: they were held out until their misses were read.

Start at programs.py. Importing this adds them to `BASES`.
"""

from detection.bases import BASES
from detection.second_part import models, programs, samples

__all__ = ["BASES", "models", "programs", "samples"]
