"""Programs after further published collections of faults, written without reading the diagnosis."""

from detection.published.second import (
    deepfd_outputs,
    forum_loop,
    forum_rates,
    synthetic,
    traps,
    traps_of_models,
)

__all__ = ["deepfd_outputs", "forum_loop", "forum_rates", "synthetic", "traps", "traps_of_models"]
