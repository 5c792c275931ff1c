"""TV511: the entropy of a policy is used up and the reward has hardly risen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import for_each_group
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.post_training import Quantity, gain_of_reward, logged, name_of
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.signals import middle, trailing_run
from trainvitals.wire import Stream


@dataclass(frozen=True)
class EntropyCollapse(Rule):
    """The policy has become nearly deterministic, and the reward has hardly risen.

    ## What it detects
    Needs `reward`, `reward_std` and `entropy` among the logged scalars. The entropy has been below
    a share of the run's own start for the newest observations, and the reward has risen by less
    than one standard deviation of the first rewards. A low entropy with a high reward is a solved
    task and is not reported.
    ## Why it matters
    A policy without entropy generates the same completion again: the rewards of a group become
    equal, and nothing is explored. The reward stays where it is.
    ## Evidence
    The entropy now as a share of the first, and the rise of the reward.
    ## What to do
    - Lower the learning rate.
    - Check the sign of an entropy bonus; raise the upper clip limit or the KL coefficient.
    - Generate with temperature 1.
    ## When it is wrong
    Tasks whose best policy has a reward within one standard deviation of the first ones.
    ## References
    Cui et al., "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models",
    2025, arXiv:2505.22617; Yu et al., "DAPO", 2025, arXiv:2503.14476.
    """

    code: ClassVar[str] = "TV511"
    stage: ClassVar[Stage] = Stage.LOSS
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = frozenset(
        {"TV107", "TV501", "TV502", "TV512", "TV514", "TV602", "TV603"}
    )
    fix: ClassVar[str] = for_each_group("['lr'] /= 10")
    refuted_by: ClassVar[str] = "The completions of one prompt differ from each other."

    observations: int = threshold(10, "Logged values at the start and newest ones.")
    share_max: float = threshold(0.2, "Entropy divided by the run's first; collapsed below it.")
    gain_max: float = threshold(
        1.0, "Maximum rise of the reward, in standard deviations of the first rewards."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        entropy = logged(history, Quantity.ENTROPY)
        gain = gain_of_reward(history, self.observations)
        if gain is None or gain > self.gain_max or len(entropy) < 2 * self.observations:
            return
        start = middle(entropy.values[: self.observations // 2])
        if start <= 0:
            return
        run = int(trailing_run(entropy.values < self.share_max * start))
        if run < self.observations:
            return
        since = int(entropy.steps[-run])
        share = middle(entropy.values[-self.observations :]) / start
        name = name_of(history, Quantity.ENTROPY)
        yield self.finding(
            severity=Severity.WARNING,
            since_step=since,
            summary=f"Entropy collapse: the policy's entropy has been below "
            f"{percent(self.share_max)} of its start since step {since} (from {number(start)} to "
            f"{number(share * start)}), and the reward has risen by {number(gain)} standard "
            "deviations.",
            evidence=(
                Evidence(
                    quantity="entropy divided by the entropy at the start",
                    seen=share,
                    limit=self.share_max,
                    direction="below",
                    healthy=(self.share_max, None),
                    unit="share",
                ),
                Evidence(
                    quantity="rise of the reward in standard deviations of the first rewards",
                    seen=gain,
                    limit=self.gain_max,
                    direction="below",
                ),
            ),
            confidence=0.85,
            stream=Stream.SCALAR,
            statistic=name,
        )

    @staticmethod
    def sick() -> History:
        """Return an entropy that falls to 2 % while the reward stays."""
        return _run(0.3)

    @staticmethod
    def healthy() -> History:
        """Return the same entropy in a run that solves its task."""
        return _run(1.0)


def _run(last_reward: float) -> History:
    n = 60
    fall = np.exp(-np.arange(n) / 8)
    reward = last_reward - (last_reward - 0.25) * fall
    columns = {"log/reward": reward, "log/reward_std": np.full(n, 0.43)}
    return Example(n).scalars(**columns, **{"log/entropy": 2.0 * (0.02 + fall)}).history
