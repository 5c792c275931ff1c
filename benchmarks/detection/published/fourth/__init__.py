"""Programs after questions and issues on PyTorch, written without reading the diagnosis."""

from detection.published.fourth import losses, rates

__all__ = ["losses", "rates"]
