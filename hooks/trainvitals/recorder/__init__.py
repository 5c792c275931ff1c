"""The flight recorder: the last steps of a run, written to a file after a fault.

Comes in: the records of the capture, sample indices, losses per sample, random states.
Goes out: at most three bundles per run (bundle.py), written by a background thread.
Promise:  the training is unchanged, bit for bit; the ring holds at most 64 MB; exceptions raised
          here are counted and reported, and never reach the training.
Start at `Recorder.step_ended`.
"""

from trainvitals.recorder.bundle import Bundle as Bundle
from trainvitals.recorder.recorder import Recorder as Recorder
