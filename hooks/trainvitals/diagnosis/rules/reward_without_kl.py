"""TV512: the KL divergence does not limit the policy while the reward rises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History, Series
from trainvitals.diagnosis.post_training import Quantity, logged, name_of
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.signals import middle, trailing_run
from trainvitals.wire import Scalar, Stream


@dataclass(frozen=True)
class RewardWithoutKl(Rule):
    """The KL divergence from the reference does not limit the policy.

    ## What it detects
    Needs `kl` among the logged scalars. One of two cases:
    (1) The KL divergence is exactly 0 in the newest observations, although the gradients are not:
    the reference is the trained policy itself, so the penalty is always 0.
    (2) With `entropy` logged as well: the KL divergence per token is above twice the entropy
    that the policy had at the start. A policy that chooses among the usual outputs of its reference
    reaches about that entropy; far beyond it, it generates what the reference finds unusual.
    ## Why it matters
    A reward model is reliable near the outputs that it was trained on. Far from the reference the
    measured reward continues to rise and the quality falls.
    ## Evidence
    The KL divergence, the entropy at the start and the change of the reward.
    ## What to do
    - Case 1: copy the reference before the training (`copy.deepcopy(policy)`) and freeze it.
    - Case 2: raise the KL coefficient; check its sign; read completions with a high reward.
    There is no code for it: the penalty is computed in your loss function or by your trainer.
    ## When it is wrong
    A training without a KL term on purpose, with rewards that are verified (unit tests, exact
    answers), may go far from its reference.
    ## References
    Gao et al., "Scaling Laws for Reward Model Overoptimization", 2022, arXiv:2210.10760; Stiennon
    et al., "Learning to summarize from human feedback", 2020, arXiv:2009.01325.
    """

    code: ClassVar[str] = "TV512"
    stage: ClassVar[Stage] = Stage.WIRING
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = frozenset({"TV501", "TV503", "TV511", "TV514"})
    fix: ClassVar[str] = ""
    refuted_by: ClassVar[str] = (
        "Completions with a high reward are good, and the reference is fixed."
    )

    observations: int = threshold(10, "Newest logged values in which it holds.")
    zero_observations: int = threshold(20, "Newest logged values that are exactly 0, for case 1.")
    entropies_max: float = threshold(
        2.0, "KL divergence divided by the entropy at the start, for case 2."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        kl = logged(history, Quantity.KL)
        found = self._same_policy(history, kl) or self._far(history, kl)
        if found is not None:
            yield found

    def _same_policy(self, history: History, kl: Series) -> Finding | None:
        norm = history.scalar(Scalar.GRADIENT_NORM).finite()
        run = int(trailing_run(kl.values == 0))
        moved = int((norm.values[-self.zero_observations :] > 0).sum())
        if run < self.zero_observations or moved < self.zero_observations:
            return None
        return self._finding(
            history,
            int(kl.steps[-run]),
            f"The KL divergence from the reference is exactly 0 in {run} logged steps in a row, "
            f"and the policy has gradients: the reference is the policy itself.",
            Evidence(
                quantity="logged steps with a KL divergence of exactly 0",
                seen=float(run),
                limit=float(self.zero_observations),
                direction="above",
                healthy=(None, float(self.zero_observations - 1)),
            ),
            confidence=0.95,
        )

    def _far(self, history: History, kl: Series) -> Finding | None:
        entropy = logged(history, Quantity.ENTROPY)
        if len(kl) < self.observations or len(entropy) < self.observations:
            return None
        start = middle(entropy.values[: self.observations // 2])
        if start <= 0:
            return None
        limit = self.entropies_max * start
        run = int(trailing_run(kl.values > limit))
        if run < self.observations:
            return None
        now = middle(kl.values[-self.observations :])
        reward = logged(history, Quantity.REWARD).values
        change = (
            f"; the reward went from {number(middle(reward[: self.observations]))} to "
            f"{number(middle(reward[-self.observations :]))}"
            if len(reward)
            else ""
        )
        return self._finding(
            history,
            int(kl.steps[-run]),
            f"The KL divergence is {number(now)} nats per token, {number(now / start)} times the "
            f"entropy of the policy at the start{change}: the policy is far from its reference.",
            Evidence(
                quantity="KL divergence divided by the entropy at the start",
                seen=now / start,
                limit=self.entropies_max,
                direction="above",
                healthy=(None, 1.0),
                unit="times",
            ),
            confidence=0.8,
        )

    def _finding(
        self, history: History, since: int, summary: str, evidence: Evidence, *, confidence: float
    ) -> Finding:
        return self.finding(
            severity=Severity.WARNING,
            since_step=since,
            summary=summary,
            evidence=(evidence,),
            confidence=confidence,
            stream=Stream.SCALAR,
            statistic=name_of(history, Quantity.KL),
        )

    @staticmethod
    def sick() -> History:
        """Return a KL divergence that grows to three times the first entropy."""
        return _run(6.0)

    @staticmethod
    def healthy() -> History:
        """Return a KL divergence that stays below the first entropy."""
        return _run(1.2)


def _run(last: float) -> History:
    n = 60
    grown = 1 - np.exp(-np.arange(n) / 10)
    columns = {"log/kl": last * grown, "log/entropy": 2.0 - 1.5 * grown, "log/reward": grown}
    return Example(n).scalars(gradient_norm=np.ones(n), **columns).history
