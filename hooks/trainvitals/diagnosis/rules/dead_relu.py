"""TV201: rectifier units that are zero for every input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import both_ends, units_before
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.wire import Place, Stat, Stream

OBSERVED = 20
"""Batches over which capture counts a unit as dead (`Stat.DEAD_SHARE`)."""


EARLY_STEPS = 2
"""A layer dead since then was born dead: no learning rate did it."""
BORN_DEAD = (
    "- The units were dead at the first steps: check this layer's bias (0, not negative) and the "
    "initialisation of its weight (He before ReLU).\n"
    "- Standardise the inputs: large negative inputs switch every unit off.\n"
    "- If it keeps happening, use LeakyReLU or GELU, which keep a slope."
)


@dataclass(frozen=True)
class DeadRelu(Rule):
    """Most units of a ReLU layer output zero for every input.

    ## What it detects
    The share of a rectifier's units that were zero for every sample of the last 20 observed
    batches: an error from 90 %, a warning from 50 % when it has risen by at least a tenth since
    the start. Layers of fewer than 8 units are left out, and of
    fewer than 16 for the warning.
    ## Why it matters
    A unit that is zero on every input passes no gradient back, so nothing revives it: the layer
    is narrower than the one you configured, and a layer that is dead as a whole cuts off all
    layers before it. The loss does not say so.
    ## Evidence
    The dead share now and at its first measurement, the limit, and how many layers are dead.
    ## What to do
    - Lower the learning rate or lengthen its warm-up: one large step is the usual killer.
    - Check the layer before: He initialisation, and a bias that is not strongly negative.
    - If it keeps happening, use LeakyReLU or GELU, which keep a slope.
    ## When it is wrong
    Networks that are sparse by design, such as gated experts or top-k units: raise the limits
    for them. Units that answer only to rare inputs look dead over 20 small batches.
    ## References
    Lu et al., "Dying ReLU and Initialization", 2019, arXiv:1903.06733; Maas, Hannun & Ng,
    "Rectifier Nonlinearities Improve Neural Network Acoustic Models", 2013.
    """

    code: ClassVar[str] = "TV201"
    stage: ClassVar[Stage] = Stage.PROPAGATION
    explains: ClassVar[frozenset[str]] = frozenset(
        {"TV101", "TV103", "TV501", "TV502", "TV602", "TV603", "TV701"}
    )
    needs: ClassVar[tuple[Need, ...]] = (Stream.ACTIVATION,)
    fix: ClassVar[str] = (
        "for group in optimizer.param_groups:\n"
        "    group['lr'] /= 10  # and nn.LeakyReLU(0.01) in place of nn.ReLU()"
    )
    refuted_by: ClassVar[str] = "A larger or more varied batch on which these units are not zero."

    dead_share_error: float = threshold(
        0.9, "Share of dead units, 0 to 1; an error from this value on."
    )
    dead_share_warning: float = threshold(
        0.5, "Share of dead units, 0 to 1; a warning from this value on when it has risen."
    )
    rise_min: float = threshold(0.1, "Rise of the dead share since its first measurement.")
    units_min: int = threshold(8, "Units a layer must have to be judged.")
    units_min_warning: int = threshold(
        16, "Units it must have for a warning below the error's limit."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding, at the layer with the largest dead share."""
        places = history.places(Stream.ACTIVATION)
        seen = both_ends(history, Stream.ACTIVATION, Stat.DEAD_SHARE, range(len(places)))
        if not len(seen.steps) or np.isnan(seen.values[-1]).all():
            return
        dead = np.nan_to_num(seen.values[-1], nan=0.0)
        known = ~np.isnan(seen.values)
        first = seen.values[np.argmax(known, axis=0), np.arange(len(places))]
        rising = dead - np.nan_to_num(first) >= self.rise_min
        sick = (dead >= self.dead_share_error) | ((dead >= self.dead_share_warning) & rising)
        for i in np.flatnonzero(sick):
            # Half of a narrow bottleneck may well be off.
            gone = dead[i] >= self.dead_share_error
            least = self.units_min if gone else self.units_min_warning
            sick[i] = (units_before(history, places[i].depth) or least) >= least
        if not sick.any():
            return
        # The first of the dead layers, since what follows a dead layer starves; without one, the
        # worst of the dying.
        gone = min(self.dead_share_error, float(dead[sick].max()))
        worst = int(min(np.flatnonzero(sick & (dead >= gone)), key=lambda i: places[i].depth))
        share, place = float(dead[worst]), places[worst]
        broken = share >= self.dead_share_error and not Course(history).learned(share=0.3)
        limit = self.dead_share_warning
        if share >= self.dead_share_error:
            limit = self.dead_share_error
        since = self._since(history, worst, limit)
        layers = int(sick.sum())
        more = ""
        if layers > 1:
            more = f"; {layers - 1} more {'layer is' if layers == 2 else 'layers are'} dying"
        yield self.finding(
            severity=Severity.ERROR if broken else Severity.WARNING,
            where=place.name,
            since_step=since,
            summary=(
                f"{share:.0%} of the units of {place.name} are zero for every input of the last "
                f"{OBSERVED} captured batches{more}."
            ),
            evidence=(
                Evidence(
                    quantity="share of dead units",
                    seen=share,
                    limit=limit,
                    direction="above",
                    healthy=(0.0, 0.4),
                    unit="share",
                    statistic=Stat.DEAD_SHARE,
                ),
                Evidence(
                    quantity="share of dead units when first known",
                    seen=float(first[worst]),
                    unit="share",
                ),
                Evidence(quantity="layers affected", seen=float(layers)),
            ),
            advice=BORN_DEAD if since <= EARLY_STEPS else "",
            confidence=0.95 if share >= self.dead_share_error else 0.75,
            stream=Stream.ACTIVATION,
            statistic=Stat.DEAD_SHARE,
        )

    def _since(self, history: History, row: int, limit: float) -> int:
        # The dead share knows after 20 batches only; the batches themselves tell when it began.
        seen = both_ends(history, Stream.ACTIVATION, Stat.INACTIVE_SHARE, [row])
        alive = np.flatnonzero(~(seen.values[:, 0] >= limit))
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
        """Return a layer of which half is off in every batch, but never the same half for long."""
        return _layer([0.55] * 60, list(np.linspace(2, 0.5, 60)), dead=0.2)


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
