"""TV301: units of a layer start with equal weights and stay equal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import INITIALISE
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import Window, called, is_matrix, rows_named, window
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Flags, Floats
from trainvitals.wire import Place, Stat, Stream

ROWS_MIN = 4
"""Rows of a matrix whose equality at the start is judged, whatever their gradients."""


@dataclass(frozen=True)
class SymmetricInit(Rule):
    """Units of a layer start with equal weights and have equal gradients: they stay equal.

    ## What it detects
    At steps 0 to 2, at most half of the rows of a weight matrix are distinct, and at most half of
    the rows of its gradient: the weights were initialised to zero, one or another constant. Or all
    rows of at least two dense matrices, a hidden one among them, are equal at step 0 and not zero:
    this is a warning, because different gradients then separate the units, but only by as much as
    training moves them.
    ## Why it matters
    Units with equal weights and equal gradients stay equal: a layer of 256 such units computes no
    more than a single unit. With zeros in two consecutive layers, the first gets no gradient.
    ## Evidence
    The share of distinct rows in the weight and in the gradient; the number of affected layers.
    ## What to do
    Initialise weights randomly (He before ReLU, Xavier before tanh). Initialise only biases with
    zeros.
    ## When it is wrong
    Zero initialisation on purpose. A zero weight whose gradient has distinct rows is not reported:
    a zero-initialised last layer, LoRA's B, the last layer of a residual branch. Nor is a single
    one in a model without any gradient: TV107 reports that.
    ## References
    Goodfellow, Bengio & Courville, "Deep Learning", 2016, section 8.4; He et al., "Delving Deep
    into Rectifiers", 2015, arXiv:1502.01852.
    """

    code: ClassVar[str] = "TV301"
    stage: ClassVar[Stage] = Stage.INITIALISATION
    before_training: ClassVar[bool] = True
    explains: ClassVar[frozenset[str]] = frozenset(
        {
            "TV101",
            "TV102",
            "TV103",
            "TV201",
            "TV202",
            "TV302",
            "TV303",
            "TV305",
            "TV501",
            "TV806",
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
    fix: ClassVar[str] = INITIALISE
    refuted_by: ClassVar[str] = "The rows of the weight differ after some steps."

    distinct_rows_max: float = threshold(0.5, "Share of distinct rows; fires up to this value.")
    steps_max: int = threshold(2, "Last step that counts as the initial state.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding, at the first symmetric layer."""
        places = history.places(Stream.WEIGHT)
        rows = [i for i, p in enumerate(places) if is_matrix(p) and p.shape[0] > 1]
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
        if len(gradients) < first and not sick.all():
            # Zero gradients are equal too: those before a layer that starts at zero, for one step.
            # With zeros in all layers they stay.
            sizes = window(history, Stream.GRADIENT, Stat.L2, [g for _, g in pairs], first=first)
            sick &= ~(sizes.values == 0).any(axis=0)
        if sick.sum() == 1 and _no_gradients(history, first):
            # One layer of zeros has a gradient itself: something else stops all gradients.
            sick[:] = False
        equal = self._single_rows(history, [w for w, _ in pairs], weight)
        if not sick.any():
            sick = equal
        if not sick.any():
            return
        order = sorted(np.flatnonzero(sick), key=lambda i: (places[pairs[i][0]].depth, i))
        at = int(order[0])
        place = places[pairs[at][0]]
        share = float(weights[0, at] if equal[at] else np.nanmax(weights[:, at]))
        others = int(sick.sum()) - 1
        more = ""
        if others:
            more = f"; {others} more {'layer is' if others == 1 else 'layers are'} affected"
        yield self.finding(
            severity=Severity.WARNING if equal[at] else Severity.ERROR,
            where=place.name,
            since_step=int(weight.steps[0]),
            summary=(
                f"Symmetric initialisation: the {place.shape[0]} units of {called(place)} have "
                f"only {share * place.shape[0]:.0f} distinct weight "
                f"row{'' if round(share * place.shape[0]) == 1 else 's'}"
                f"{'' if equal[at] else ' and equal gradients'}{more}."
            ),
            evidence=(
                self._distinct("distinct rows of the weight", share),
                *self._of_gradient(gradients[:, at], judged=not equal[at]),
                Evidence(quantity="layers affected", seen=float(sick.sum())),
            ),
            stream=Stream.WEIGHT,
            statistic=Stat.STD,
        )

    def _single_rows(self, history: History, rows: list[int], distinct: Window) -> Flags:
        """Return for each matrix whether all its rows are equal at step 0 and not zero.

        False for all if there are fewer than two, or only output layers. A matrix with one input
        is left out: equal filters for all channels, such as a blur, are usual.
        """
        if distinct.steps[0] > 0:
            return np.zeros(len(rows), bool)
        places = [history.places(Stream.WEIGHT)[row] for row in rows]
        norms = window(history, Stream.WEIGHT, Stat.L2, rows, first=1).values[0]
        known = [p.trainable and p.shape[0] >= ROWS_MIN and p.shape[1] > 1 for p in places]
        units = np.array([p.shape[0] for p in places])
        equal: Flags = np.array(known) & (distinct.values[0] * units < 1.5) & (norms > 0)
        hidden = [alike and "output" not in p.flags for alike, p in zip(equal, places, strict=True)]
        return equal if equal.sum() > 1 and any(hidden) else np.zeros(len(rows), bool)

    def _of_gradient(self, shares: Floats, *, judged: bool) -> tuple[Evidence, ...]:
        if not judged:
            return ()
        return (self._distinct("distinct rows of its gradient", float(np.nanmax(shares))),)

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
        """Return zero weights with distinct gradients: they differ after the first step."""
        return _layers(weight=1 / 16, gradient=1.0)


def _no_gradients(history: History, first: int) -> bool:
    """Whether all gradients of the `first` measured steps are exactly 0."""
    rows = range(len(history.places(Stream.GRADIENT)))
    sizes = window(history, Stream.GRADIENT, Stat.L2, rows, first=first).values
    return bool((sizes == 0).any() and not (np.isfinite(sizes) & (sizes != 0)).any())


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
