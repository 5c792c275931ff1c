"""Programs after questions and issues on PyTorch, written without reading the diagnosis."""

from detection.published.third import losses, numeric, samples, silent, structure, traps, wiring

__all__ = ["losses", "numeric", "samples", "silent", "structure", "traps", "wiring"]
