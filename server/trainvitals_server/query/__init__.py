"""What the dashboard, the command line and scripts read: GET under /api/v1.

Start at `routes`; `shapes` has what they answer, `scalars` how numbers become JSON.
"""
