"""Programs after questions and issues on PyTorch, written without reading the diagnosis."""

from detection.published.third import losses, numeric, silent, wiring

__all__ = ["losses", "numeric", "silent", "wiring"]
