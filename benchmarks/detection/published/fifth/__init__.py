"""Programs after questions and issues on PyTorch, written without reading the diagnosis."""

from detection.published.fifth import losses, rates, wiring

__all__ = ["losses", "rates", "wiring"]
