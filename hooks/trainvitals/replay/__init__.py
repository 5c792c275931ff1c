"""Run a recorded step again, sample by sample.

Comes in: a bundle of the flight recorder, and the user's model, loss and data.
Goes out: a `Replay`: whether the recorded loss was reproduced, and the samples, the worst first.
Start at `replay.replay`; `samples.py` measures the samples, `ranking.py` orders them.
"""

from trainvitals.replay.ranking import Sample as Sample
from trainvitals.replay.replay import Replay as Replay
from trainvitals.replay.replay import ReplayError as ReplayError
from trainvitals.replay.replay import replay as replay
