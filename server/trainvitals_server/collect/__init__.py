"""The door for batches: bounded, checked, off the event loop, acknowledged when synced.

Start at `routes.ingest`; `body` reads a request within its limits.
"""
