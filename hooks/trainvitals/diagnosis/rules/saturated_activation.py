"""TV202: outputs of sigmoid or tanh are saturated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import percent
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import STANDARD_INPUT
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import called, window
from trainvitals.diagnosis.post_training import gain_of_reward
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import median, trailing_run
from trainvitals.wire import Place, Stat, Stream

GATED = ("LSTM", "GRU", "LSTMCell", "GRUCell")


@dataclass(frozen=True)
class SaturatedActivation(Rule):
    """Most outputs of a sigmoid or tanh are saturated: the derivative is nearly zero there.

    ## What it detects
    The share of saturated outputs (|tanh| > 0.99, or sigmoid outside 0.01 to 0.99) has a median
    above 50 % over the newest 20 captured steps. Excluded: gates of LSTM and GRU, output layers,
    runs that have converged, runs whose loss has fallen by 30 %, and those whose logged reward has
    risen clearly.
    ## Why it matters
    The derivative of a saturated output is below 0.02. Hardly any gradient passes through, and
    the layers before it stop learning.
    ## Evidence
    The median saturated share, its limit, and the number of saturated layers.
    ## What to do
    - Scale the layer's input to unit variance: standardise the inputs; use Xavier initialisation
      for the layer before.
    - If it began during training, lower the learning rate.
    - Use ReLU or GELU between layers.
    ## When it is wrong
    Units that are binary on purpose (hand-written gates, attention masks, binarised codes).
    ## References
    Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks",
    2010, section 3; LeCun et al., "Efficient BackProp", 1998.
    """

    code: ClassVar[str] = "TV202"
    stage: ClassVar[Stage] = Stage.PROPAGATION
    explains: ClassVar[frozenset[str]] = frozenset(
        {"TV101", "TV501", "TV507", "TV806", "TV502", "TV602"}
    )
    needs: ClassVar[tuple[Need, ...]] = (Stream.ACTIVATION,)
    fix: ClassVar[str] = STANDARD_INPUT
    refuted_by: ClassVar[str] = (
        "The layers before it learn: their update ratios are in the healthy range."
    )

    saturated_share_max: float = threshold(0.5, "Share of saturated outputs, 0 to 1.")
    observations: int = threshold(20, "Newest captured steps in the median.")
    observations_min: int = threshold(8, "Minimum number of captured steps.")
    reward_gain_max: float = threshold(
        0.5,
        "Rise of a logged reward since the start, in standard deviations of single rewards, above "
        "which the run learns in spite of it.",
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding, at the first of the layers with the largest share."""
        places = history.places(Stream.ACTIVATION)
        rows = [i for i, p in enumerate(places) if "output" not in p.flags and p.kind not in GATED]
        deepest = max((p.depth for p in places), default=-1)
        rows = [i for i in rows if places[i].depth < deepest or deepest < 0 or len(places) == 1]
        seen = window(history, Stream.ACTIVATION, Stat.SATURATED_SHARE, rows, last=128)
        course = Course(history)
        if len(seen.steps) < self.observations_min or course.converged:
            return
        share = np.nan_to_num(median(seen.values[-self.observations :]))
        sick = share > self.saturated_share_max
        if not sick.any() or course.learned(share=0.3):
            return
        gain = gain_of_reward(history, self.observations)
        if gain is not None and gain > self.reward_gain_max:
            return
        order = sorted(
            np.flatnonzero(sick), key=lambda i: (-round(float(share[i]), 1), places[rows[i]].depth)
        )
        worst = int(order[0])
        place, now = places[rows[worst]], float(share[worst])
        run = max(1, int(trailing_run(seen.values[:, worst] > self.saturated_share_max)))
        yield self.finding(
            severity=Severity.WARNING,
            where=place.name,
            since_step=int(seen.steps[-run]),
            summary=f"Saturated activation: {percent(now)} of the outputs of {called(place)} are "
            f"saturated (median of the newest {min(self.observations, len(seen.steps))} captured "
            "steps).",
            evidence=(
                Evidence(
                    quantity="share of saturated outputs",
                    seen=now,
                    limit=self.saturated_share_max,
                    direction="above",
                    healthy=(0.0, 0.3),
                    unit="share",
                    statistic=Stat.SATURATED_SHARE,
                ),
                Evidence(quantity="layers affected", seen=float(sick.sum())),
            ),
            confidence=0.85,
            stream=Stream.ACTIVATION,
            statistic=Stat.SATURATED_SHARE,
        )

    @staticmethod
    def sick() -> History:
        """Return a hidden tanh layer with 80 % saturated outputs."""
        return _tanh(0.8, "Tanh")

    @staticmethod
    def healthy() -> History:
        """Return the same share in an LSTM, whose gates saturate by design."""
        return _tanh(0.8, "LSTM")


def _tanh(share: float, kind: str) -> History:
    places = [
        Place("1", kind=kind, depth=1, nonlinearity="tanh"),
        Place("2", kind="Linear", depth=2, flags=("output",)),
    ]
    columns = {"1": {Stat.SATURATED_SHARE: share}}
    return Example(40).scalars(loss=[1.0] * 40).stream(Stream.ACTIVATION, places, columns).history
