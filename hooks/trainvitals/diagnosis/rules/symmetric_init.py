"""TV301: units that start alike and stay alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import is_matrix, layer_of, rows_named, window
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Flags, Floats
from trainvitals.wire import Place, Stat, Stream


@dataclass(frozen=True)
class SymmetricInit(Rule):
    """Units of a layer start with the same weights and get the same gradient: they stay one unit.

    ## What it detects
    At steps 0 to 2 at most half of a weight's rows are distinct, and of its gradient's rows too:
    weights set to zero, one or another constant.
    ## Why it matters
    Units with equal weights and equal gradients stay equal for ever: a layer of 256 such units is
    a layer of one. With zeros in two layers in a row no gradient at all reaches the first.
    ## Evidence
    The share of distinct rows in weight and gradient, and how many layers are affected.
    ## What to do
    Initialise with random weights, He before ReLU, Xavier before tanh; zeros are right for biases
    only.
    ## When it is wrong
    A zero weight whose gradient's rows differ is no fault and is not reported: a head started at
    zero, LoRA's B, the last layer of a residual branch.
    ## References
    Goodfellow, Bengio & Courville, "Deep Learning", 2016, section 8.4; He et al., "Delving Deep
    into Rectifiers", 2015, arXiv:1502.01852.
    """

    code: ClassVar[str] = "TV301"
    stage: ClassVar[Stage] = Stage.INITIALISATION
    explains: ClassVar[frozenset[str]] = frozenset(
        {
            "TV101",
            "TV102",
            "TV103",
            "TV201",
            "TV202",
            "TV303",
            "TV501",
            "TV502",
            "TV602",
            "TV603",
            "TV701",
        }
    )
    needs: ClassVar[tuple[Need, ...]] = (
        Stream.WEIGHT,
        Stream.GRADIENT,
    )
    fix: ClassVar[str] = (
        "for m in model.modules():\n"
        "    if isinstance(m, (nn.Linear, nn.Conv2d)):\n"
        "        nn.init.kaiming_normal_(m.weight, nonlinearity='relu')"
    )
    refuted_by: ClassVar[str] = "Rows of the weight that differ after some steps."

    distinct_rows_max: float = threshold(0.5, "Share of rows that differ from every other row.")
    steps_max: int = threshold(2, "Last step at which the initial state is read.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding, at the first symmetric layer."""
        places = history.places(Stream.WEIGHT)
        rows = [
            i
            for i, p in enumerate(places)
            if is_matrix(p) and p.shape[0] > 1 and "zero_init_branch" not in p.flags
        ]
        names = [places[i].name for i in rows]
        gradient_rows = rows_named(history, Stream.GRADIENT, names)
        pairs = [(w, g) for w, g in zip(rows, gradient_rows, strict=True) if g is not None]
        if not pairs:
            return
        first = self.steps_max + 1
        weight = window(
            history, Stream.WEIGHT, Stat.DISTINCT_ROWS, [w for w, _ in pairs], first=first
        )
        gradient = window(
            history, Stream.GRADIENT, Stat.DISTINCT_ROWS, [g for _, g in pairs], first=first
        )
        weights = weight.values[weight.steps <= self.steps_max]
        gradients = gradient.values[gradient.steps <= self.steps_max]
        if len(weights) == 0 or len(gradients) == 0:
            return
        sick = self._all_alike(weights) & self._all_alike(gradients)
        if not sick.any():
            return
        order = sorted(np.flatnonzero(sick), key=lambda i: (places[pairs[i][0]].depth, i))
        at = int(order[0])
        place = places[pairs[at][0]]
        share = float(np.nanmax(weights[:, at]))
        yield self.finding(
            severity=Severity.ERROR,
            where=place.name,
            since_step=int(weight.steps[0]),
            summary=(
                f"The {place.shape[0]} units of {layer_of(place)} start with the same weights and "
                f"get the same gradient ({share * place.shape[0]:.0f} distinct rows)"
                + (f"; {int(sick.sum()) - 1} more layers do too." if sick.sum() > 1 else ".")
            ),
            evidence=(
                self._distinct("distinct rows of the weight", share),
                self._distinct("distinct rows of its gradient", float(np.nanmax(gradients[:, at]))),
                Evidence(quantity="layers affected", seen=float(sick.sum())),
            ),
            stream=Stream.WEIGHT,
            statistic=Stat.STD,
        )

    def _distinct(self, quantity: str, share: float) -> Evidence:
        return Evidence(
            quantity=quantity,
            seen=share,
            limit=self.distinct_rows_max,
            direction="below",
            healthy=(1.0, 1.0),
            unit="share",
        )

    def _all_alike(self, shares: Floats) -> Flags:
        """Return for each column whether it was measured and never above the limit."""
        known = ~np.isnan(shares)
        below = (shares <= self.distinct_rows_max) | ~known
        alike: Flags = np.logical_and(known.any(axis=0), below.all(axis=0))
        return alike

    @staticmethod
    def sick() -> History:
        """Return two layers of zeros."""
        return _layers(weight=1 / 16, gradient=1 / 16)

    @staticmethod
    def healthy() -> History:
        """Return zero weights whose gradients differ: they separate at the first step."""
        return _layers(weight=1 / 16, gradient=1.0)


def _layers(weight: float, gradient: float) -> History:
    places = [
        Place(f"{i}.weight", kind="weight", shape=(16, 16), depth=i, module=str(i)) for i in (0, 1)
    ]
    return (
        Example(3)
        .stream(Stream.WEIGHT, places, {p.name: {Stat.DISTINCT_ROWS: weight} for p in places})
        .stream(Stream.GRADIENT, places, {p.name: {Stat.DISTINCT_ROWS: gradient} for p in places})
        .history
    )
