"""`trainvitals demo`: training, delivery, diagnosis and dashboard on real data, in a minute.

Comes in: scikit-learn's handwritten digits.
Goes out: a healthy run, four runs with a fault each, their cards, a table, a dashboard.
Promise:  its data is in a directory of its own, apart from the user's; the verdicts in the table
          come from the collector.
Start at `play.play`; the networks and their faults are in `digits`.
"""
