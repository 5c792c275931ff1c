"""TV502: the loss has fallen and is level, or the model cannot tell what it would have to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.attention import is_order_blind
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Column, Example
from trainvitals.diagnosis.fixes import for_each_group
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.narrow_layers import STATE_MAX, narrow_layer, wider
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Floats, block_means, middle, noise, trend
from trainvitals.wire import Scalar, Stat, Stream


@dataclass(frozen=True)
class LossPlateau(Rule):
    """The loss has fallen and is level now, far above zero, or the model cannot bring it lower.

    ## What it detects
    The newest 40 % of the losses (at least 100) have no trend (Mann–Kendall on ten block means),
    and their second half is at most 2 %, or two standard errors, below the first. The loss had
    fallen by 10 % before, is above 10 % of its start, and at most 70 % of the planned steps are
    done. This is always a note: the loss alone does not show whether the level is the noise of the
    data or the limit of the model. It is a warning if a hidden layer of a chain of linear layers
    has a single unit and the loss is above a quarter of that of the best constant prediction after
    100 steps, or all hidden layers, two or more, have a single unit or channel and it is above a
    tenth: all that the later layers know of a sample, or of one of its positions, is one number.
    The same for a recurrent layer whose state is one number; at 90 % of that loss if it is two; and
    at 60 % after 200 steps for a model with attention whose output is the same for tokens in any
    order: its graph contains no vectors for positions, no mask, no convolution or recurrence,
    and a mean or maximum over the tokens. Left out: losses of unknown scale, warm-up, and a
    learning rate below a tenth of its maximum.
    ## Why it matters
    Further steps with these settings cost compute and change little.
    ## Evidence
    The change of the loss in the newest part, the level, and the step since which it is level.
    ## What to do
    - Lower the learning rate by 3 to 10: the loss falls at once if the steps were too large.
    - If it does not fall: a larger model, or more informative inputs.
    - Stop here if the noise of the data does not allow a lower loss.
    - Give a hidden layer of one unit more units.
    - Add vectors for the positions to those of the tokens, if the order of tokens matters.
    ## When it is wrong
    Some tasks are learned after a long plateau: recurrent networks, grokking. Sets have no order:
    their loss can be high because of noise.
    ## References
    Mann, "Nonparametric Tests Against Trend", 1945; Power et al., "Grokking", 2022,
    arXiv:2201.02177.
    """

    code: ClassVar[str] = "TV502"
    stage: ClassVar[Stage] = Stage.LOSS
    explains_at: ClassVar[Mapping[Stage, frozenset[str]]] = {
        # A narrow layer.
        Stage.INITIALISATION: frozenset({"TV304", "TV501", "TV507", "TV602", "TV701", "TV806"}),
        # Tokens without positions.
        Stage.WIRING: frozenset({"TV501", "TV506", "TV507"}),
    }
    damages_loss: ClassVar[bool] = False
    needs: ClassVar[tuple[Need, ...]] = (Scalar.LOSS,)
    fix: ClassVar[str] = for_each_group("['lr'] /= 5")
    refuted_by: ClassVar[str] = "A metric on held-out data still improves."

    steps_min: int = threshold(100, "Minimum number of losses in the newest part.")
    newest_share: float = threshold(0.4, "Newest part of the losses that is level; 0 to 1.")
    change_max: float = threshold(
        0.02, "Fall of the loss within the newest part, as a share of its level."
    )
    p_max: float = threshold(0.05, "p-value below which there is a trend.")
    fall_min: float = threshold(0.1, "Fall before the plateau, as a share of the initial loss.")
    level_min: float = threshold(0.1, "Level as a share of the initial loss; lower has converged.")
    narrow_level_min: float = threshold(
        0.25, "Loss as a share of that of a constant prediction, with a layer of a single unit."
    )
    state_level_min: float = threshold(
        0.9, "The same with a recurrent layer whose state has two numbers."
    )
    order_level_min: float = threshold(
        0.6, "The same with an output that does not depend on the order of the tokens."
    )
    order_steps_min: int = threshold(200, "Minimum number of losses with such an output.")
    plan_max: float = threshold(0.7, "Share of the planned steps; later a plateau is the end.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        course = Course(history)
        if (narrow := self._narrow(history, course)) is not None:
            yield narrow
            return
        if (blind := self._order_blind(history, course)) is not None:
            yield blind
            return
        count = int(self.newest_share * len(course.loss))
        if count < self.steps_min or not course.known or course.converged:
            return
        if course.warming_up or course.cooling_down or self._near_the_end(history):
            return
        values = course.loss.values[-count:].astype(np.float64)
        level = middle(values)
        if level < self.level_min * course.initial:
            return
        if level > (1 - self.fall_min) * course.initial:
            return
        older, newer = (middle(part) for part in np.array_split(values, 2))
        p, _ = trend(block_means(values, 10))
        change = (older - newer) / level
        limit = max(self.change_max, 2 * 1.25 * noise(values) / level * (4 / count) ** 0.5)
        if p < self.p_max or abs(change) > limit:
            return
        since = int(course.loss.steps[-count])
        yield self.finding(
            severity=Severity.INFO,
            since_step=since,
            summary=f"Loss plateau: since step {since} the loss is level at "
            f"{number(course.shown(level))}, "
            f"{percent(level / course.initial)} of its start.",
            evidence=(
                Evidence(
                    quantity="fall of the loss within the newest part",
                    seen=change,
                    limit=limit,
                    direction="below",
                    healthy=(limit, None),
                    unit="share",
                    text="2 % of the level, or two standard errors of the difference",
                ),
                Evidence(quantity="loss now", seen=course.shown(level)),
                Evidence(quantity="loss at the start", seen=course.shown(course.initial)),
            ),
            confidence=0.6,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    def _narrow(self, history: History, course: Course) -> Finding | None:
        """Return a finding at a hidden layer of one unit, if the loss is high."""
        narrow, constant = narrow_layer(history), course.constant
        if narrow is None or len(course.loss) < self.steps_min or not course.known:
            return None
        limit = self.state_level_min if narrow.units > 1 else self.narrow_level_min
        if narrow.is_everywhere:
            limit = self.level_min
        if not constant or course.converged or course.now() < limit * constant:
            return None
        level = course.now() / constant
        return self.finding(
            severity=Severity.WARNING,
            stage=Stage.INITIALISATION,
            where=narrow.module,
            since_step=int(course.loss.steps[0]),
            summary=f"Narrow layer: {narrow.text}; the loss is {number(level)} times that of a "
            "constant prediction.",
            evidence=(
                Evidence(
                    quantity=f"units of the hidden layer {narrow.module}",
                    seen=float(narrow.units),
                    limit=STATE_MAX + 1.0 if narrow.is_state else 2.0,
                    direction="below",
                    healthy=(16.0, None),
                ),
                Evidence(
                    quantity="loss divided by that of the best constant prediction",
                    seen=level,
                    limit=limit,
                    direction="above",
                ),
            ),
            fix=wider(narrow.module, narrow.following) if narrow.following else "",
            confidence=0.8,
            stream=Stream.WEIGHT,
            statistic=Stat.STD,
        )

    def _order_blind(self, history: History, course: Course) -> Finding | None:
        """Return a finding for a model that cannot tell the order of its tokens."""
        constant = course.constant
        if not constant or not course.known or not is_order_blind(history):
            return None
        level = course.now() / constant
        if len(course.loss) < self.order_steps_min or level < self.order_level_min:
            return None
        return self.finding(
            severity=Severity.WARNING,
            stage=Stage.WIRING,
            since_step=int(course.loss.steps[0]),
            summary="Order of the tokens: the model's output is the same for its tokens in any "
            "order (no vectors for positions, no mask), and the loss is "
            f"{number(level)} times that of a constant prediction.",
            evidence=(
                Evidence(
                    quantity="loss divided by that of the best constant prediction",
                    seen=level,
                    limit=self.order_level_min,
                    direction="above",
                ),
            ),
            advice="Add vectors for the positions (learned or sinusoidal) to those of the tokens.",
            fix="",
            confidence=0.7,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    def _near_the_end(self, history: History) -> bool:
        planned = history.total_steps
        return bool(planned) and history.last_step >= self.plan_max * (planned or 0)

    @staticmethod
    def sick() -> History:
        """Return a loss that falls to 1.2 within 50 steps and stays there."""
        return _run(1.2 + 1.1 * np.exp(-np.arange(400) / 15))

    @staticmethod
    def healthy() -> History:
        """Return a loss that falls by 10 % in each 80 steps."""
        return _run(2.3 * np.exp(-np.arange(400) / 800))


def _run(smooth: Floats) -> History:
    noisy: Column = smooth + 0.03 * np.random.default_rng(0).normal(0, 1, len(smooth))
    return Example(len(smooth)).scalars(loss=noisy).history
