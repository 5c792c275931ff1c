"""Diagnose a run: from a history of statistics to findings and one headline, with numpy only.

Comes in: a `History`, built from records.
Goes out: a `Diagnosis`.
Promise:  no clock, socket, thread or database; an exception in a rule is a finding (TV954).
Start at `examine.Engine`.
"""
