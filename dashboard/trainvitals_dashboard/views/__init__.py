"""The pages. Each file is one, run by app.py's router; `show` is where to start reading."""
