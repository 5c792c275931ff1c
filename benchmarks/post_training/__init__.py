"""Measure recall on faults of post-training, and false alarms on healthy policy gradients.

`make bench-post-training` trains tiny autoregressive policies on CPU. Start at
`bench.measure`.
"""
