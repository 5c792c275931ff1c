"""The collector's own vital signs and its runs', for Prometheus.

Comes in: the store's run list and findings, what the rounds measured, the counters of ingest.
Goes out: GET /metrics, as OpenMetrics or in the classic text format.
Promise:  at most SERIES_MAX series, each with a value behind it: what is not known is absent,
          what is older than five minutes too; the rest of the collector never waits for a scrape.
Start at `families` for the names, `snapshot` for where each number comes from.
"""
