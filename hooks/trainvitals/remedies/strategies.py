"""The initialisers by name: their parameters, gains and random draws, on `torch.nn.init`.

Sources: He et al. 2015, arXiv:1502.01852; Glorot & Bengio 2010; LeCun et al., "Efficient BackProp",
1998; Saxe et al. 2014, arXiv:1312.6120; Klambauer et al. 2017, arXiv:1706.02515 (SELU wants LeCun);
Radford et al. 2019 (GPT-2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from trainvitals.remedies.surroundings import Surroundings
from trainvitals.structure.fans import Fans
from trainvitals.structure.order import ACTIVATIONS

RECTIFIERS: Final = {"relu", "leaky_relu", "gelu", "silu", "mish", "hardswish", "elu"}
"""Nonlinearities with gain √2: they pass about half of the second moment."""
PARAMETERS: Final[dict[str, dict[str, float | str | None]]] = {
    "auto": {"nonlinearity": None},
    "normal": {"mean": 0.0, "std": 0.02},
    "uniform": {"low": -0.05, "high": 0.05},
    "zeros": {},
    "ones": {},
    "constant": {"value": None},
    "xavier_normal": {"gain": None, "nonlinearity": None},
    "xavier_uniform": {"gain": None, "nonlinearity": None},
    "he_normal": {"gain": None, "mode": "fan_in", "nonlinearity": None},
    "he_uniform": {"gain": None, "mode": "fan_in", "nonlinearity": None},
    "lecun_normal": {},
    "lecun_uniform": {},
    "orthogonal": {"gain": None, "nonlinearity": None},
    "truncated_normal": {"mean": 0.0, "std": 0.02},
    "torch_default": {},
    "gpt2": {"std": 0.02},
}
"""Strategy → its parameters with their defaults. None: by layer (constant: required)."""
_POSITIVE: Final = {"std", "gain"}


@dataclass(frozen=True)
class Draw:
    """How to fill one tensor."""

    strategy: str
    distribution: str
    """normal | truncated_normal | uniform | orthogonal | constant"""
    scale: float
    """Standard deviation; half the width (uniform); gain (orthogonal); the value (constant)."""
    centre: float = 0.0
    blocks: int = 1
    """Blocks of rows that are filled one by one."""


def checked_parameters(strategy: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all parameters of a strategy. Raises ValueError or TypeError for unusable ones."""
    if strategy not in PARAMETERS:
        raise ValueError(
            f"There is no strategy {strategy!r}; choose one of {', '.join(PARAMETERS)}."
        )
    known = PARAMETERS[strategy]
    for name, value in given.items():
        if name not in known:
            raise TypeError(
                f"The strategy {strategy!r} has no parameter {name!r}; "
                f"it has {', '.join(known) or 'none'}."
            )
        _check_value(name, value)
    merged = {**known, **given}
    if strategy == "constant" and merged["value"] is None:
        raise TypeError("The strategy 'constant' needs value=.")
    if strategy == "uniform" and not merged["low"] < merged["high"]:
        raise ValueError(f"low is {merged['low']} and high {merged['high']}; low must be smaller.")
    return merged


def _check_value(name: str, value: object) -> None:
    if name == "mode":
        if value not in ("fan_in", "fan_out"):
            raise ValueError(f"mode is {value!r}; it is 'fan_in' or 'fan_out'.")
    elif name == "nonlinearity":
        known = sorted({*ACTIVATIONS.values(), "linear"})
        if value not in known:
            raise ValueError(f"nonlinearity is {value!r}; it is one of {', '.join(known)}.")
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is a {type(value).__name__}; it must be a number.")
    elif not math.isfinite(value) or (name in _POSITIVE and value <= 0):
        what = "finite and greater than 0" if name in _POSITIVE else "finite"
        raise ValueError(f"{name} is {value}; it must be {what}.")


def gain_of(place: Surroundings) -> float:
    """Return the gain before a nonlinearity: √2 for rectifiers, 5/3 for tanh, 1 for others."""
    if place.nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + place.slope**2))
    if place.nonlinearity in RECTIFIERS:
        return math.sqrt(2)
    return 5 / 3 if place.nonlinearity in ("tanh", "hardtanh") else 1.0


def automatic(place: Surroundings) -> str:
    """Return the strategy for the nonlinearity that follows a layer."""
    if place.nonlinearity in RECTIFIERS:
        return "he_normal"
    return "lecun_normal" if place.nonlinearity == "selu" else "xavier_normal"


def draw_of(strategy: str, fans: Fans, place: Surroundings, parameters: Mapping[str, Any]) -> Draw:
    """Return how a weight is filled by a strategy, which is neither auto nor torch_default."""
    kind, _, family = strategy.partition("_")
    gain = parameters.get("gain") or gain_of(place)
    if kind in ("xavier", "he", "lecun"):
        if kind == "xavier":
            std = gain * math.sqrt(2 / (fans.fan_in + fans.fan_out))
        elif kind == "he":
            mode = parameters.get("mode", "fan_in")
            std = gain / math.sqrt(fans.fan_in if mode == "fan_in" else fans.fan_out)
        else:
            std = 1 / math.sqrt(fans.fan_in)
        scale = std * math.sqrt(3) if family == "uniform" else std
        return Draw(strategy, family, scale, blocks=fans.blocks)
    if strategy == "orthogonal":
        return Draw(strategy, "orthogonal", gain, blocks=fans.blocks)
    if strategy == "uniform":
        low, high = parameters["low"], parameters["high"]
        return Draw(strategy, "uniform", (high - low) / 2, (high + low) / 2)
    if strategy in ("normal", "truncated_normal"):
        return Draw(strategy, strategy, parameters["std"], parameters["mean"])
    if strategy == "gpt2":
        return Draw(strategy, "normal", parameters["std"])
    value = {"zeros": 0.0, "ones": 1.0}.get(strategy, parameters.get("value"))
    return Draw(strategy, "constant", float(value or 0.0))


def fill(draw: Draw, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return new values in the shape of `like`; half precision is drawn in float32.

    They are on the generator's device, or on that of `like` without a generator.
    """
    dtype = like.dtype if like.dtype == torch.float64 else torch.float32
    device = generator.device if generator is not None else like.device
    values = torch.empty(like.shape, dtype=dtype, device=device)
    for block in values.chunk(draw.blocks) if draw.blocks > 1 else (values,):
        _fill_block(draw, block, generator)
    return values


def _fill_block(draw: Draw, block: Tensor, generator: torch.Generator | None) -> None:
    scale, centre = draw.scale, draw.centre
    if draw.distribution == "normal":
        nn.init.normal_(block, centre, scale, generator=generator)
    elif draw.distribution == "uniform":
        nn.init.uniform_(block, centre - scale, centre + scale, generator=generator)
    elif draw.distribution == "truncated_normal":
        nn.init.trunc_normal_(
            block, centre, scale, centre - 2 * scale, centre + 2 * scale, generator=generator
        )
    elif draw.distribution == "orthogonal":
        nn.init.orthogonal_(block, scale, generator=generator)
    else:
        nn.init.constant_(block, scale)
