"""Single places at which a model loses its input from the start: norms, embeddings, states.

Comes in: a history. Goes out: a `Lost`, or None.
Promise:  pure.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from trainvitals.api.schema import Evidence, Severity
from trainvitals.api.wording import number
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.fixes import Moment, at
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.initial import START, weight_gains
from trainvitals.diagnosis.places import rms_window, rows_named, window
from trainvitals.wire import Place, Stat, Stream


class Lost(NamedTuple):
    """What loses the signal, as a sentence without its end, and the code against it."""

    where: str
    since: int
    severity: Severity
    text: str
    evidence: tuple[Evidence, ...]
    stream: Stream
    statistic: Stat
    fix: str | None = None


def zero_gain(history: History) -> Lost | None:
    """Return a normalisation whose scale starts at 0, and whose result nothing else is added to.

    The module after it then has the same output for every sample. The last norm of a residual
    branch begins at 0 on purpose: the skip connection brings the samples to the next module.
    """
    places = history.places(Stream.ACTIVATION)
    steps = history.steps(Stream.ACTIVATION)
    if not len(steps) or steps[0] > START or Course(history).converged:
        return None
    order = sorted((p.depth, row) for row, p in enumerate(places) if p.depth >= 0)
    for (_, row), (_, after) in pairwise(order):
        norm = places[row]
        if "Norm" not in norm.kind:
            continue
        scale = _rms_at_start(history, f"{norm.module}.weight")
        shift = _rms_at_start(history, f"{norm.module}.bias")
        spread = window(history, Stream.ACTIVATION, Stat.SAMPLE_STD, [after], first=1).values
        if scale == 0 and not shift > 0 and len(spread) and spread[0, 0] == 0:
            return Lost(
                norm.module,
                int(steps[0]),
                Severity.ERROR,
                f"Initial signal too small: the scale of the {norm.kind} {norm.module} starts at 0 "
                f"and no skip connection passes it, so that the output of {places[after].name} is "
                "the same for every sample, and no layer before it gets a gradient",
                (
                    Evidence(
                        quantity=f"RMS of {norm.module}.weight at the start",
                        seen=0.0,
                        limit=0.0,
                        direction="below",
                        healthy=(1.0, 1.0),
                    ),
                ),
                Stream.ACTIVATION,
                Stat.SAMPLE_STD,
                at(
                    Moment.BEFORE_TRAINING,
                    "for name, parameter in model.named_parameters():\n"
                    "    if name.endswith('.weight') and parameter.ndim == 1 "
                    "and not parameter.any():\n"
                    "        nn.init.ones_(parameter)",
                ),
            )
    return None


def tiny_vectors(
    history: History, *, rms_max: float, sensitivity_max: float, steps_min: int
) -> Lost | None:
    """Return an embedding whose vectors are so small that the first biases hide the tokens.

    The layer behind has S/√(S² + M²) below `sensitivity_max` at the start. None before `steps_min`
    steps, and once the loss has fallen by a tenth: Adam enlarges the vectors within some steps.
    """
    course = Course(history)
    if len(course.loss) < steps_min or course.learned(share=0.1) or course.converged:
        return None
    places = history.places(Stream.ACTIVATION)
    order = [p for _, _, p in sorted((p.depth, i, p) for i, p in enumerate(places) if p.depth >= 0)]
    for vectors, layer in pairwise(order):
        if not vectors.kind.startswith("Embedding") or layer.kind.startswith("Embedding"):
            continue
        rms, sensitivity = (
            _rms_at_start(history, f"{vectors.module}.weight"),
            _sensitivity(history, layer),
        )
        if 0 < rms < rms_max and sensitivity < sensitivity_max:
            return Lost(
                f"{vectors.module}.weight",
                int(history.steps(Stream.WEIGHT)[0]),
                Severity.WARNING,
                f"Initial weights too small: the vectors of {vectors.module} have an RMS of "
                f"{number(rms)}, so that the biases of {layer.name} hide the tokens",
                (
                    Evidence(
                        quantity=f"RMS of {vectors.module}.weight at the start",
                        seen=rms,
                        limit=rms_max,
                        direction="below",
                        healthy=(0.01, 2.0),
                    ),
                    Evidence(
                        quantity=f"sample sensitivity S/√(S² + M²) of {layer.name}",
                        seen=sensitivity,
                        limit=sensitivity_max,
                        direction="below",
                        healthy=(0.2, None),
                    ),
                ),
                Stream.WEIGHT,
                Stat.L2,
                at(
                    Moment.BEFORE_TRAINING,
                    f"nn.init.normal_(model.get_parameter('{vectors.module}.weight'))",
                ),
            )
    return None


def forgetting(history: History, *, gain_min: float, steps_min: int) -> Lost | None:
    """Return the recurrent weight of a plain RNN whose state forgets at once."""
    course = Course(history)
    if history.steps_seen < steps_min or course.converged or course.learned():
        return None
    for gain in weight_gains(history):
        place = gain.place
        if place.module_kind != "RNN" or "_hh" not in place.name:
            continue
        if 0 < gain.value < gain_min:
            return Lost(
                place.name,
                int(history.steps(Stream.WEIGHT)[0]),
                Severity.WARNING,
                f"Initial weights too small: {place.name} multiplies the state by "
                f"{number(gain.value)} in each time step, so the RNN forgets its past, and the "
                "loss has not fallen",
                (
                    Evidence(
                        quantity=f"gain RMS(W)·√fan_in of {place.name} at the start",
                        seen=gain.value,
                        limit=gain_min,
                        direction="below",
                        healthy=(0.3, 2.0),
                    ),
                ),
                Stream.WEIGHT,
                Stat.STD,
            )
    return None


def _rms_at_start(history: History, name: str) -> float:
    """Return the RMS of a parameter at the first measurement; NaN if it is not measured."""
    rows = [row for row in rows_named(history, Stream.WEIGHT, [name]) if row is not None]
    values = rms_window(history, Stream.WEIGHT, rows, first=1).values
    steps = history.steps(Stream.WEIGHT)
    return float(values[0, 0]) if values.size and steps[0] <= START else float("nan")


def _sensitivity(history: History, place: Place) -> float:
    """Return S/√(S² + M²) of a module at the first measurement; NaN if it is not measured."""
    row = history.places(Stream.ACTIVATION).index(place)
    s, m = (
        window(history, Stream.ACTIVATION, stat, [row], first=1).values
        for stat in (Stat.SAMPLE_STD, Stat.UNIT_MEAN_STD)
    )
    if not s.size or not m.size:
        return float("nan")
    return float(s[0, 0] / max(float(np.hypot(s[0, 0], m[0, 0])), 1e-30))
