"""Made-up findings, as the query API tells them."""

from __future__ import annotations

from typing import Any


def finding_of(given: dict[str, Any]) -> dict[str, Any]:
    """Return a finding with all its fields."""
    return {
        "rule": "vanishing_gradient",
        "code": "TV101",
        "severity": "error",
        "where": "",
        "since_step": 0,
        "state": "open",
        "summary": "Something is wrong.",
        "evidence": [],
        "why": "",
        "advice": "",
        "fix": "",
        "confidence": 0.95,
        "explained_by": "",
        "refuted_by": "",
        "last_step": 400,
        "stream": "",
        "statistic": "",
        **given,
    }


def seen(
    quantity: str,
    value: float | str,
    limit: float | None = None,
    direction: str = "",
    healthy: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Return one evidence item."""
    return {
        "quantity": quantity,
        "seen": value,
        "limit": limit,
        "direction": direction,
        "healthy": healthy,
        "unit": "",
        "text": "",
        "statistic": "",
    }


VANISHING = {
    "where": "encoder.4.weight",
    "since_step": 12,
    "summary": "The gradient of the first layer (encoder.0) is 4 million times smaller than that "
    "of the last (encoder.11); the largest drop is at encoder.4.",
    "evidence": [
        seen("gradient RMS, first layer relative to last", 2.5e-7, 1e-4, "below", (0.01, 100.0)),
        seen("update ratio of the first layer", 2.5e-10, 1e-6, "below", (1e-5, 0.1)),
        seen("weight matrices compared", 12.0),
    ],
    "why": "Each layer multiplies the gradient by its weights and by the slope of its "
    "nonlinearity. Where that product is below 1 the first layers get nothing.",
    "advice": "Replace sigmoid and tanh between layers by `ReLU` or `GELU`. Initialise for the "
    "nonlinearity: He for ReLU, Xavier for tanh.",
    "fix": "nn.Sequential(nn.Linear(n, n), nn.LayerNorm(n), nn.ReLU())",
    "refuted_by": "The loss falls as fast as with a normalisation layer between the layers.",
    "stream": "gradient",
    "statistic": "l2",
}
FLAT = {
    "rule": "no_learning",
    "code": "TV501",
    "severity": "warning",
    "since_step": 40,
    "summary": "The loss is 2.303 after 400 steps; it began at 2.303.",
    "evidence": [seen("fall of the loss since the start", 0.0, 0.046, "below")],
    "why": "A loss that does not fall says that nothing is learned.",
    "explained_by": "TV101",
    "confidence": 0.8,
    "stream": "scalar",
    "statistic": "loss",
}
DEAD = {
    "rule": "dead_relu",
    "code": "TV201",
    "severity": "warning",
    "where": "encoder.7",
    "since_step": 100,
    "summary": "83 % of the units of encoder.7 have been zero since step 100.",
    "evidence": [
        {
            **seen("share of dead units", 0.83, 0.5, "above", (0.0, 0.4)),
            "unit": "share",
            "statistic": "dead_share",
        },
        seen("layers affected", 1.0),
    ],
    "stream": "activation",
    "statistic": "dead_share",
    "fix": "nn.LeakyReLU(0.01)",
}
SPIKE = {
    "rule": "loss_spike",
    "code": "TV503",
    "severity": "warning",
    "since_step": 251,
    "summary": "The loss jumped from 0.2 to 10,000 at step 251 and came back.",
    "evidence": [
        seen("deviation of the loss from the steps before", 61.2, 8.0, "above"),
        seen("recovered", "yes"),
    ],
    "stream": "scalar",
    "statistic": "loss",
    "confidence": 0.6,
}
