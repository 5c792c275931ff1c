"""Programs after questions and issues on PyTorch, written without reading the diagnosis."""

from detection.published.sixth import (
    fit,
    flow,
    losses,
    numeric,
    rates,
    samples,
    silent,
    starts,
    traps,
    wiring,
)

__all__ = [
    "fit",
    "flow",
    "losses",
    "numeric",
    "rates",
    "samples",
    "silent",
    "starts",
    "traps",
    "wiring",
]
