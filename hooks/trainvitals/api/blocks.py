"""The block of a network that a tensor or module belongs to, from its name alone.

Comes in: names of PyTorch parameters and modules, such as "encoder.layers.3.attention.q.weight".
Goes out: the name of the repeated part, "encoder.layers.3", or of the first child, "head".
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_PARAMETER = re.compile(r"(?:^|\.)(?:weight|bias)(?:_[a-z]+_l\d+(?:_reverse)?|_[gvu])?$")
"""The names of parameters in PyTorch: weight, bias, weight_ih_l0_reverse, weight_g."""


def block_of(name: str) -> str:
    """Return the name up to its first number, or its first part; "" for a parameter of the root.

    Containers such as nn.Sequential and nn.ModuleList number their children, and a network repeats
    its blocks in such a container. A number that directly follows another number belongs to the
    block: stages of "stages.1.0" are numbered, and so are their blocks.
    """
    module = _PARAMETER.sub("", name)
    parts = module.split(".") if module else []
    first = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
    end = first + 1
    while end < len(parts) and parts[end].isdigit():
        end += 1
    return ".".join(parts[:end])


def blocks_of(names: Iterable[str]) -> dict[str, list[str]]:
    """Return block → its names, both in the order in which they first appear."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(block_of(name), []).append(name)
    return found
