"""Prometheus metrics of the collector and of its runs.

Comes in: the store's run list and findings, values from the diagnosis rounds, ingest counters.
Goes out: GET /metrics, in OpenMetrics or in the classic text format.
Promise:  at most SERIES_MAX series; a value that is unknown or older than five minutes is absent;
          a scrape never blocks the rest of the collector.
Start at `families` for the metric names, at `snapshot` for the source of each value.
"""
