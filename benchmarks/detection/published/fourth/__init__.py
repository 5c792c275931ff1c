"""Programs after questions and issues on PyTorch, written without reading the diagnosis."""

from detection.published.fourth import flow, losses, numeric, rates, samples, starts, wiring

__all__ = ["flow", "losses", "numeric", "rates", "samples", "starts", "wiring"]
