"""Measure false alarms on healthy training programs that no rule was written with.

Comes in: programs/, complete small trainings in the idiom of public example repositories.
Goes out: the share of runs with a warning or an error, and each finding with its place.
Promise:  a run counts only if it has learned: its metric on held-out data reaches the value that
          the program states.
Start at `runner.run`; `python -m healthy` calls it once for each run, in a process of its own.
"""
