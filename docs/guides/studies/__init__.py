"""The runs behind the figures of the guides: small networks, fixed seeds, one core.

Each function trains or measures real models and returns numbers; figures.py draws them, and
tests/architecture/test_guides.py checks the statements of the pages on them.
"""
