"""From a history of statistics to findings and one headline: pure numpy, the same on every side.

Comes in: a `History`, fed with records.
Goes out: a `Diagnosis`.
Promise:  no clock, socket, thread or database; a broken rule is a finding (TV954), not a crash.
Start at `examine.Engine`.
"""
