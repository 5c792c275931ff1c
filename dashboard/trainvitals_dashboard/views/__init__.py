"""The pages, one per file. The router in app.py runs them; start at `show`."""
