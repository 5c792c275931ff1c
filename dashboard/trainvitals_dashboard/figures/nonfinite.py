"""The steps at which a loss or a gradient norm was NaN or infinite, in its curve.

Such a value is stored as missing, and counted in a scalar of its own (decision 2). Without it, a
curve would look as if nothing was recorded at these steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from trainvitals.api.schema import Curve
from trainvitals.wire import Scalar

COUNTS: Final[Mapping[str, str]] = {
    Scalar.LOSS: Scalar.NONFINITE_LOSS,
    Scalar.GRADIENT_NORM: Scalar.NONFINITE_GRADIENTS,
}
"""Scalar → the scalar that is above zero where it was not finite."""


def with_nonfinite(curve: Curve, counts: Curve) -> Curve:
    """Return `curve` with the buckets of `counts` that are above zero as not finite.

    Both were read for the same steps and number of points: a bucket of one is a bucket of the other
    or left out there, because all its values are missing.
    """
    rows = {step: i for i, step in enumerate(curve.step)}
    bad = {
        step: round((counts.mean[i] or 0) * counts.count[i])
        for i, step in enumerate(counts.step)
        if (counts.max[i] or 0) > 0
    }
    ends = dict(zip(counts.step, counts.last_step, strict=True))
    steps = sorted({*rows, *bad})
    at = [rows.get(step) for step in steps]

    def column(values: list[float | None]) -> list[float | None]:
        asked_for = values or not curve.step
        return [None if i is None else values[i] for i in at] if asked_for else []

    return Curve(
        curve.place,
        step=steps,
        last_step=[
            ends[s] if i is None else curve.last_step[i] for s, i in zip(steps, at, strict=True)
        ],
        min=column(curve.min),
        mean=column(curve.mean),
        max=column(curve.max),
        last=column(curve.last),
        nonfinite=[
            bad.get(s, 0) + (0 if i is None else curve.nonfinite[i])
            for s, i in zip(steps, at, strict=True)
        ],
        count=[0 if i is None else curve.count[i] for i in at],
    )
