"""Prometheus metrics of a run, for the collector and for the training process.

Comes in: a History and the findings of a run.
Goes out: metric families for prometheus-client; `exporter` serves those of this process.
Promise:  only `exposed` and `exporter` import prometheus-client.
Start at `families` for the metric names, at `vitals` for the source of each value.
"""
