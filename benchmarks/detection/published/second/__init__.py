"""Programs after further published collections of faults, written without reading the diagnosis."""

from detection.published.second import (
    autotrainer,
    crime,
    deepfd_outputs,
    deepfd_rates,
    forum_loop,
    forum_rates,
    synthetic,
    traps,
    traps_of_models,
)

__all__ = [
    "autotrainer",
    "crime",
    "deepfd_outputs",
    "deepfd_rates",
    "forum_loop",
    "forum_rates",
    "synthetic",
    "traps",
    "traps_of_models",
]
