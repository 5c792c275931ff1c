"""The read API for the dashboard, the command line and scripts: GET under /api/v1.

Start at `routes`; `shapes` describes the responses for OpenAPI.
"""
