"""TV514: the length of completions leaves its range, without a better reward."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.post_training import Quantity, gain_of_reward, logged, name_of
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.signals import Floats, middle, trailing_run
from trainvitals.wire import Stream


@dataclass(frozen=True)
class LengthDrift(Rule):
    """Completions become much longer or shorter than at the start, or do not end.

    ## What it detects
    Needs `truncated_share`, or `completion_length` with `reward` and `reward_std`, among the logged
    scalars. One of four cases in the newest observations:
    (1) Nearly all completions are truncated.
    (2) Most completions are truncated, and few were at the start.
    (3) The mean length is less than a third of that at the start.
    (4) The mean length is a multiple of that at the start, and the reward has risen by less than
    half a standard deviation of the first rewards.
    ## Why it matters
    A reward for length, a missing end token or a loss that is divided by the length teaches the
    policy a length instead of the task. Truncated completions have no answer, and so no signal.
    ## Evidence
    The truncated share or the length, now and at the start, and the rise of the reward.
    ## What to do
    - Check that the end token is in the vocabulary, in the mask and in the stop criteria.
    - Raise the maximum length, or leave truncated completions out of the loss.
    - Check whether the reward or the normalisation of the loss depends on the length.
    There is no code for it: the cause is in the rewards, the masks or the generation settings.
    ## When it is wrong
    Tasks that want much shorter answers than the first policy gave; classification by one token.
    ## References
    Liu et al., "Understanding R1-Zero-Like Training: A Critical Perspective", 2025,
    arXiv:2503.20783; Singhal et al., "A Long Way to Go: Investigating Length Correlations in RLHF",
    2023, arXiv:2310.03716.
    """

    code: ClassVar[str] = "TV514"
    stage: ClassVar[Stage] = Stage.LOSS
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = frozenset({"TV107", "TV501", "TV502"})
    fix: ClassVar[str] = ""
    refuted_by: ClassVar[str] = "Long and short completions of one prompt have the same reward."

    observations: int = threshold(10, "Logged values at the start and newest ones.")
    truncated_max: float = threshold(0.95, "Truncated share, 0 to 1, for case 1.")
    truncated_grown: float = threshold(0.5, "Truncated share, 0 to 1, for case 2.")
    truncated_few: float = threshold(0.2, "Maximum truncated share at the start, for case 2.")
    shorter: float = threshold(0.33, "Length divided by the length at the start, for case 3.")
    longer: float = threshold(2.0, "Length divided by the length at the start, for case 4.")
    gain_max: float = threshold(
        0.5, "Maximum rise of the reward, in standard deviations of the first rewards, for case 4."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        found = self._truncated(history) or self._length(history)
        if found is not None:
            yield found

    def _truncated(self, history: History) -> Finding | None:
        series = logged(history, Quantity.TRUNCATED_SHARE)
        if len(series) < self.observations:
            return None
        values = series.values.astype(np.float64)
        start, now = middle(values[: self.observations // 2]), self._now(values)
        grew = len(series) >= 2 * self.observations and start <= self.truncated_few
        limit = self.truncated_grown if grew else self.truncated_max
        run = int(trailing_run(values > limit))
        if run < self.observations:
            return None
        return self._finding(
            history,
            Quantity.TRUNCATED_SHARE,
            int(series.steps[-run]),
            f"{percent(now)} of the completions reach the maximum length without an end token "
            f"since step {int(series.steps[-run])}; at the start {percent(start)} did.",
            Evidence(
                quantity="truncated share of the completions",
                seen=now,
                limit=limit,
                direction="above",
                healthy=(None, self.truncated_few),
                unit="share",
            ),
        )

    def _length(self, history: History) -> Finding | None:
        series = logged(history, Quantity.LENGTH)
        if len(series) < 2 * self.observations:
            return None
        values = series.values.astype(np.float64)
        start = middle(values[: self.observations // 2])
        if start <= 0:
            return None
        share = values / start
        short, long = (int(trailing_run(x)) for x in (share < self.shorter, share > self.longer))
        gain = gain_of_reward(history, self.observations)
        if short >= self.observations:
            run, limit, direction = short, self.shorter, "below"
        elif long >= self.observations and gain is not None and gain < self.gain_max:
            run, limit, direction = long, self.longer, "above"
        else:
            return None
        since, now = int(series.steps[-run]), self._now(share)
        rise = "" if gain is None else f"; the reward changed by {number(gain)} standard deviations"
        return self._finding(
            history,
            Quantity.LENGTH,
            since,
            f"Completions are {number(now)} times as long as at the start since step {since} "
            f"({number(start)} tokens then, {number(now * start)} now){rise}.",
            Evidence(
                quantity="length of the completions divided by that at the start",
                seen=now,
                limit=limit,
                direction="below" if direction == "below" else "above",
                healthy=(self.shorter, self.longer),
                unit="times",
            ),
        )

    def _now(self, values: Floats) -> float:
        return middle(values[-self.observations :])

    def _finding(
        self, history: History, quantity: Quantity, since: int, summary: str, evidence: Evidence
    ) -> Finding:
        return self.finding(
            severity=Severity.WARNING,
            since_step=since,
            summary=summary,
            evidence=(evidence,),
            confidence=0.8,
            stream=Stream.SCALAR,
            statistic=name_of(history, quantity),
        )

    @staticmethod
    def sick() -> History:
        """Return completions that become four times as long with the same reward."""
        return _run(0.3)

    @staticmethod
    def healthy() -> History:
        """Return the same lengths in a run whose reward rises: it learns to reason."""
        return _run(0.9)


def _run(last_reward: float) -> History:
    n = 60
    grown = 1 - np.exp(-np.arange(n) / 15)
    columns = {
        "log/completion_length": 50 * (1 + 3.2 * grown),
        "log/reward": 0.25 + (last_reward - 0.25) * grown,
        "log/reward_std": np.full(n, 0.43),
    }
    return Example(n).scalars(**columns).history
