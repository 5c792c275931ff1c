"""Check a model before its training: initialisation, propagation, loss, targets, optimizer.

Comes in: a model and one real batch. Goes out: a `Diagnosis` with a `Checkup`.
Promise:  weights, buffers, gradients, optimizer, modes and random number generators are as before,
          bit for bit, also if the checkup raises.
Start at `checkup.checkup`.
"""

from trainvitals.checkups.checkup import checkup

__all__ = ["checkup"]
