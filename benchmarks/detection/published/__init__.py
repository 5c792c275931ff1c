"""Programs after published collections of faults; importing this fills the registry."""

from detection.published import (
    bias,
    controls,
    fifth,
    fit,
    flow,
    fourth,
    initialisation,
    loss,
    numeric,
    optimizer,
    samples,
    scaling,
    second,
    sixth,
    third,
    wiring,
)
from detection.published.register import HEALTHY, PUBLISHED, Published

__all__ = [
    "HEALTHY",
    "PUBLISHED",
    "Published",
    "bias",
    "controls",
    "fifth",
    "fit",
    "flow",
    "fourth",
    "initialisation",
    "loss",
    "numeric",
    "optimizer",
    "samples",
    "scaling",
    "second",
    "sixth",
    "third",
    "wiring",
]
