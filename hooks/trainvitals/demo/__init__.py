"""`trainvitals demo`: the whole way, on real data, in a minute.

Comes in: scikit-learn's handwritten digits.
Goes out: a healthy run and the same task trained sick, their cards, a table, a dashboard.
Promise:  a home of its own, so that nothing mixes with the user's; verdicts in the table are read
          back from the collector.
Start at `play.play`; the networks and their diseases are in `digits`.
"""
