"""Programs after further published collections of faults, written without reading the diagnosis."""

from detection.published.second import forum_loop, forum_rates, synthetic

__all__ = ["forum_loop", "forum_rates", "synthetic"]
