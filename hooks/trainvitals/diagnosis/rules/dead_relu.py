"""TV201: units of a ReLU, or of a layer like it, that are the same for every input."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import percent
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import Moment, at, biases_apart, for_each_group
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import both_ends, called, units_before, window
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import first_finite
from trainvitals.wire import Place, Stat, Stream

_DERIVED = "50 % and one standard error over the units of the layer"
OBSERVED = 20
"""Number of batches for which a unit must be zero to count as dead (`Stat.DEAD_SHARE`)."""

SMOOTH = ("GELU", "SiLU", "Mish", "Hardswish")
"""Activations that tend to 0 for negative inputs: their units are never exactly 0 for long."""
SILENT_MAX = 1e-5
"""Standard deviation of the outputs of such a layer over all samples and units."""
SIGNAL_MIN = 1e-2
"""The same of its inputs, across samples."""
EARLY_STEPS = 2
"""A layer that is dead by this step was dead at initialisation: training did not cause it."""
ADVICE_DEAD_AT_INITIALISATION = (
    "- The units were dead in the first steps: check this layer's bias (0, not negative) and the "
    "initialisation of its weight (He before ReLU).\n"
    "- Standardise the inputs: large negative inputs make every unit output zero.\n"
    "- If it happens again, use LeakyReLU or GELU: their gradient is not zero for negative inputs."
)

NEGATIVE_BIAS = -0.5
"""Mean of a bias at the start below which it kills ReLU units; the default is within ±1/√fan_in."""
BIAS_STEP_MAX = 30.0
"""Median update of the biases over that of the weights; 1 with one learning rate and Adam."""
LEAKY = at(
    Moment.BEFORE_TRAINING,
    "for name, module in [*model.named_modules()]:\n"
    "    if isinstance(module, nn.ReLU):\n"
    "        model.set_submodule(name, nn.LeakyReLU(0.1))",
)
BIASES_TO_ZERO = at(
    Moment.BEFORE_TRAINING,
    "for m in model.modules():\n"
    "    if isinstance(m, (nn.Linear, nn.Conv2d)) and m.bias is not None:\n"
    "        nn.init.zeros_(m.bias)",
)

ROUNDING = 1e-6
"""A share of 0.9 is stored as a float32 that is a little less."""


@dataclass(frozen=True)
class DeadRelu(Rule):
    """Most units of a ReLU layer output zero for every input, or all of a GELU one number.

    ## What it detects
    The share of a ReLU layer's units that were zero for every sample of the last 20 captured
    batches. From 90 % it is reported; from 50 % if the share has risen by at least 10 percentage
    points since its first measurement (below 32 units, from one standard error of 0.5/√units
    above 50 %). It is an error from 90 % unless the loss has fallen by 30 %, otherwise a warning.
    Excluded: layers with fewer than 8 units; below 90 %, layers with fewer than 16 units, the
    first 100 steps, and runs whose loss has fallen by 30 %. A GELU, SiLU, Mish or Hardswish
    module is reported if all of its outputs were one number in the last 20 captured batches,
    although its inputs differ.
    ## Why it matters
    A unit that is zero for every input has no gradient, so training does not restore it: the
    layer is effectively narrower than configured. A completely dead layer blocks the gradient to
    all layers before it. The loss does not show this.
    ## Evidence
    The dead share now and at its first measurement, the limit, and the number of dead layers.
    ## What to do
    - Lower the learning rate or lengthen its warm-up: one large update is the usual cause.
    - Check the layer before: He initialisation, and a bias that is not strongly negative.
    - If it happens again, use LeakyReLU or GELU: their gradient is not zero for negative inputs.
    ## When it is wrong
    Networks that are sparse by design, such as gated experts or top-k units: raise the limits.
    Units that are active only for rare inputs look dead over 20 small batches.
    ## References
    Lu et al., "Dying ReLU and Initialization", 2019, arXiv:1903.06733; Maas, Hannun & Ng,
    "Rectifier Nonlinearities Improve Neural Network Acoustic Models", 2013.
    """

    code: ClassVar[str] = "TV201"
    stage: ClassVar[Stage] = Stage.PROPAGATION
    explains: ClassVar[frozenset[str]] = frozenset(
        {"TV101", "TV103", "TV501", "TV507", "TV806", "TV502", "TV602", "TV603", "TV701"}
    )
    needs: ClassVar[tuple[Need, ...]] = (Stream.ACTIVATION,)
    fix: ClassVar[str] = for_each_group("['lr'] /= 10  # or LeakyReLU in place of ReLU")
    refuted_by: ClassVar[str] = "A larger or more varied batch on which these units are not zero."

    dead_share_error: float = threshold(
        0.9, "Share of dead units, 0 to 1; an error at or above this value."
    )
    dead_share_warning: float = threshold(
        0.5, "Share of dead units, 0 to 1; a warning at or above this value if it has risen."
    )
    rise_min: float = threshold(0.1, "Minimum rise of the dead share since its first measurement.")
    learned_max: float = threshold(
        0.3,
        "Fall of the loss, as a share, above which a share below `dead_share_error` is healthy.",
    )
    units_min: int = threshold(8, "Minimum number of units of a layer.")
    units_narrow: int = threshold(
        32, "Number of units below which one standard error, 0.5/√units, is added to the limit."
    )
    steps_warning: int = threshold(
        100, "Steps with a loss from which on a share below `dead_share_error` is judged."
    )
    units_min_warning: int = threshold(
        16, "Minimum number of units for a warning below `dead_share_error`."
    )

    @property
    def _limits(self) -> tuple[float, float]:
        return self.dead_share_warning, self.dead_share_error

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding: at the first dead layer, otherwise at the largest dead share."""
        places = history.places(Stream.ACTIVATION)
        seen = both_ends(history, Stream.ACTIVATION, Stat.DEAD_SHARE, range(len(places)))
        silent = _silent(history)
        if not len(seen.steps) or (np.isnan(seen.values[-1]).all() and not silent):
            return
        dead = np.nan_to_num(seen.values[-1], nan=0.0).astype(np.float64) + ROUNDING
        known = ~np.isnan(seen.values)
        first = seen.values[np.argmax(known, axis=0), np.arange(len(places))]
        dead[silent], first[silent] = 1.0, 1.0
        rising = dead - np.nan_to_num(first) >= self.rise_min
        sick = dead >= self.dead_share_error
        course = Course(history)
        young = course.known and history.steps_seen < self.steps_warning
        thrives = young or course.learned(share=self.learned_max)
        limits = np.full(len(places), self.dead_share_error)
        candidates = sick | ((dead >= self.dead_share_warning) & rising)
        for i in np.flatnonzero(candidates):
            units = units_before(history, places[i].depth)
            if sick[i]:
                sick[i] = (units or self.units_min) >= self.units_min
                continue
            limits[i] = self._limit_of(units)
            enough = (units or self.units_min_warning) >= self.units_min_warning
            sick[i] = enough and dead[i] >= limits[i] and not thrives
        if not sick.any():
            return
        # Report the first dead layer, because it can cause the later ones; if no layer is above
        # the error limit, report the largest share.
        at_least = min(self.dead_share_error, float(dead[sick].max()))
        worst = int(min(np.flatnonzero(sick & (dead >= at_least)), key=lambda i: places[i].depth))
        share, place = float(seen.values[-1, worst]) if worst not in silent else 1.0, places[worst]
        broken = dead[worst] >= self.dead_share_error and not Course(history).learned(share=0.3)
        limit = float(limits[worst])
        since = self._since(history, worst, limit)
        layers = int(sick.sum())
        more = ""
        if layers > 1:
            more = f"; {layers - 1} more {'layer is' if layers == 2 else 'layers are'} affected"
        yield self.finding(
            severity=Severity.ERROR if broken else Severity.WARNING,
            where=place.name,
            since_step=since,
            summary=(
                f"Dead {place.kind if worst in silent else 'ReLU'} units: {percent(share)} of the "
                f"units of {called(place)} are {'one number' if worst in silent else 'zero'} for "
                f"every input of the last {OBSERVED} captured batches{more}."
            ),
            evidence=(
                Evidence(
                    quantity="share of dead units",
                    seen=share,
                    limit=limit,
                    direction="above",
                    healthy=(0.0, 0.4),
                    unit="share",
                    text=_DERIVED if limit not in self._limits else "",
                    statistic=Stat.DEAD_SHARE,
                ),
                Evidence(
                    quantity="share of dead units at the first measurement",
                    seen=float(first[worst]),
                    unit="share",
                ),
                Evidence(quantity="layers affected", seen=float(layers)),
            ),
            advice=ADVICE_DEAD_AT_INITIALISATION if since <= EARLY_STEPS else "",
            fix=_fix(history, early=since <= EARLY_STEPS),
            confidence=0.95 if dead[worst] >= self.dead_share_error else 0.75,
            stream=Stream.ACTIVATION,
            statistic=Stat.DEAD_SHARE,
        )

    def _limit_of(self, units: int | None) -> float:
        """Return the limit of a warning: a layer of few units has half of them zero by chance."""
        if units is None or units >= self.units_narrow:
            return self.dead_share_warning
        return self.dead_share_warning + 0.5 / math.sqrt(units)

    def _since(self, history: History, row: int, limit: float) -> int:
        # The dead share is measured only after 20 batches; the inactive share of each batch gives
        # the first step.
        seen = both_ends(history, Stream.ACTIVATION, Stat.INACTIVE_SHARE, [row])
        if row in _silent(history):
            seen = both_ends(history, Stream.ACTIVATION, Stat.STD, [row])
            alive = np.flatnonzero(seen.values[:, 0] > SILENT_MAX)
        else:
            alive = np.flatnonzero(~(seen.values[:, 0] + ROUNDING >= limit))
        begin = int(alive[-1]) + 1 if len(alive) else 0
        if begin >= len(seen.steps):
            begin = max(0, len(seen.steps) - OBSERVED)
        return int(seen.steps[begin])

    @staticmethod
    def sick() -> History:
        """Return a layer that dies at step 10."""
        return _layer([0.1] * 10 + [0.96] * 50, [2.0] * 60)

    @staticmethod
    def healthy() -> History:
        """Return a layer with half of its units inactive in each batch, but not the same half."""
        return _layer([0.55] * 60, list(np.linspace(2, 0.5, 60)), dead=0.2)


def _silent(history: History) -> list[int]:
    """Return the rows of smooth activations whose outputs are one number for different inputs."""
    places = history.places(Stream.ACTIVATION)
    found = []
    for row, place in enumerate(places):
        if place.kind not in SMOOTH or place.depth < 1:
            continue
        before = [r for r, p in enumerate(places) if p.depth == place.depth - 1]
        if len(before) != 1:
            continue
        out = window(history, Stream.ACTIVATION, Stat.STD, [row], last=OBSERVED).values[:, 0]
        inside = window(history, Stream.ACTIVATION, Stat.SAMPLE_STD, before, last=OBSERVED).values
        if len(out) == OBSERVED and (out <= SILENT_MAX).all() and (inside > SIGNAL_MIN).all():
            found.append(row)
    return found


def _fix(history: History, *, early: bool) -> str | None:
    """Return the fix for what the biases show: their first values, or how far they move."""
    biases = [i for i, p in enumerate(history.places(Stream.WEIGHT)) if p.kind == "bias"]
    means = both_ends(history, Stream.WEIGHT, Stat.MEAN, biases).values
    if early and (first_finite(means) < NEGATIVE_BIAS).any():
        return BIASES_TO_ZERO
    moved = history.places(Stream.UPDATE)
    steps = {
        kind: both_ends(
            history, Stream.UPDATE, Stat.RMS, [i for i, p in enumerate(moved) if p.kind == kind]
        ).values[:1]
        for kind in ("bias", "weight")
    }
    if all(np.isfinite(x).any() and np.nanmax(x) > 0 for x in steps.values()):
        factor = float(np.nanmedian(steps["bias"]) / np.nanmedian(steps["weight"]))
        if BIAS_STEP_MAX < factor < math.inf:
            return biases_apart(f"['lr'] /= {float(f'{factor:.0e}'):.0f}")
    return LEAKY if early else None


def _layer(inactive: list[float], loss: list[float], dead: float | None = None) -> History:
    shares = np.asarray(inactive)
    known = np.full(len(shares), np.nan)
    for i in range(OBSERVED - 1, len(shares)):
        known[i] = shares[i - OBSERVED + 1 : i + 1].min() if dead is None else dead
    places = [Place("1", kind="ReLU", depth=1, nonlinearity="relu")]
    return (
        Example(len(inactive))
        .scalars(loss=loss)
        .stream(
            Stream.ACTIVATION, places, {"1": {Stat.INACTIVE_SHARE: shares, Stat.DEAD_SHARE: known}}
        )
        .history
    )
