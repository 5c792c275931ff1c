"""Ingest: batches are bounded, checked, stored off the event loop and acknowledged once synced.

Start at `routes.ingest`; `body` reads a request within its limits.
"""
