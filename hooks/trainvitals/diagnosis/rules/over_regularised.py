"""TV604: the weight decay shrinks the weights too fast, or a dropout leaves almost no signal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent, times
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.dropped_output import dropped_output
from trainvitals.diagnosis.example import Column, Example
from trainvitals.diagnosis.fixes import LESS_DROPOUT, for_each_group
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.hyperparameters import ADDING, SHRINKING, newest_of_groups, recorded
from trainvitals.diagnosis.norm_shares import norm_shares
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import trailing_run
from trainvitals.diagnosis.strong_dropout import Limits, strong_dropout
from trainvitals.diagnosis.supervision import largest_loss
from trainvitals.diagnosis.update_ratio import weight_over_gradient
from trainvitals.wire import Place, Scalar, Stat, Stream


@dataclass(frozen=True)
class OverRegularised(Rule):
    """A weight decay or a dropout is so strong that the model cannot learn.

    ## What it detects
    The optimizer has a weight decay, the norm of the weight matrices (median over the matrices) has
    been below half of its first value for five captured steps in a row, and the loss is still above
    90 % of its initial value, or after 100 steps above 120 % of that of the best constant
    prediction. It is a warning if the norm has fallen as above, the learning rate times the weight
    decay is 0.005 or more (not Adam, which scales the decay too), and after 100 steps the loss is
    above 60 % of that of the best constant prediction. Or: more than half of the first loss was
    another term than the error of the predictions, the norm has fallen as above, and after 100
    steps the loss is above 60 % of that of the best constant prediction: a penalty on the weights.
    The same warning, if a weight decay of 0.01 or more, which Adam and similar optimizers add to
    the gradient, has shrunk the embeddings (median over the tables) to less than half.
    Or: a dropout module had a probability of 0.9 or more at the start of the run, and after 100
    steps the loss is above 30 % of that of the best constant prediction, or it begins and stays
    above three times it. The same for a probability of 0.7 or more if the loss, after 200 steps, is
    above 90 % of that of the constant and does not fall. Where that loss is not known, it is a
    note; a warning if the probability is 0.95 or more and the loss is level at more than a fifth of
    its start. Or: the last operation before the loss is a dropout of any probability: a warning at
    once. Or: the learning rate times the weight decay is 1 or more (AdamW, SGD). Or: the weight
    decay, which Adam and similar optimizers add to the gradient, was ten times the gradient in the
    first captured step (λ‖W‖/‖g‖, median over the matrices), and the loss has become infinite or
    has not fallen. Losses of unknown scale are left out.
    ## Why it matters
    The decay pulls each weight towards zero with a strength that does not depend on the data. If
    it outweighs the gradient, all layers shrink together, signal and gradient vanish, and the model
    predicts a constant. A dropout of 0.95 keeps one unit in 20 and multiplies it by 20: the output
    is mostly noise.
    ## Evidence
    The norm of the weights as a share of its first value, the fall of the loss, the weight decay
    and the learning rate; or the dropout and the loss.
    ## What to do
    - Divide the weight decay by 10 until the norm stays level: 1e-4 to 1e-1 is usual for AdamW,
      1e-5 to 1e-3 for SGD.
    - AdamW multiplies each weight by 1 − lr · weight_decay in every step; Adam and SGD add
      weight_decay · weight to the gradient.
    - Exclude biases and norm layers from the decay.
    - Remove a dropout behind the last layer. Before it, 0.1 to 0.5 is usual: the share that is set
      to zero.
    ## When it is wrong
    Another term of the loss that is large at first and is no penalty. Large initial weights shrink
    in a healthy run too, but then the loss falls. Two vectors of the model, each with a dropout,
    one of them detached, that an absolute error compares on purpose.
    ## References
    Loshchilov & Hutter, "Decoupled Weight Decay Regularization", 2019, arXiv:1711.05101; Zhang et
    al., "Three Mechanisms of Weight Decay Regularization", 2019, arXiv:1810.12281; Srivastava et
    al., "Dropout", 2014.
    """

    code: ClassVar[str] = "TV604"
    stage: ClassVar[Stage] = Stage.OPTIMIZER
    explains: ClassVar[frozenset[str]] = frozenset(
        {
            *("TV101", "TV106", "TV201", "TV303", "TV305", "TV501", "TV502", "TV505", "TV507"),
            *("TV601", "TV602", "TV701", "TV702", "TV806", "TV102", "TV901"),
        }
    )
    needs: ClassVar[tuple[Need, ...]] = (Stream.WEIGHT, Scalar.LOSS)
    fix: ClassVar[str] = for_each_group("['weight_decay'] /= 1000")
    refuted_by: ClassVar[str] = "The loss falls while the norm of the weights stays low."

    norm_share: float = threshold(
        0.5, "Norm of the weight matrices as a share of its first value, median over them."
    )
    observations: int = threshold(5, "Captured steps in a row at or below this share.")
    fall_min: float = threshold(
        0.1, "Fall of the loss as a share of its initial value; more than this is learning."
    )
    steps_min: int = threshold(20, "Minimum number of finished steps.")

    level_min: float = threshold(
        1.2,
        "Loss relative to that of a constant prediction; above it, a loss that has fallen is no "
        "learning.",
    )
    rate_min: float = threshold(
        0.005,
        "Learning rate times weight decay, the share of each weight that a step removes; at or "
        "above it, the decay is compared with `unexplained_min`.",
    )
    steps_min_penalty: int = threshold(
        100, "Minimum number of finished steps for a penalty, and for `level_min`."
    )
    observations_penalty: int = threshold(
        3, "Captured steps in a row with a norm at or below `norm_share`, for a penalty."
    )
    penalty_min: float = threshold(
        0.5, "Share of the first loss that the predictions and targets cannot explain, 0 to 1."
    )
    unexplained_min: float = threshold(
        0.6, "Loss now relative to that of a constant prediction; fires above this value."
    )
    table_decay_min: float = threshold(
        0.01, "Weight decay from which the embeddings are judged (optimizers that add it)."
    )
    rate_max: float = threshold(
        1.0, "Learning rate times weight decay from which a step takes all of a weight, or more."
    )
    outweighs_max: float = threshold(
        10.0, "Weight decay times the weights, relative to the gradient at the start (norms)."
    )
    dropout_max: float = threshold(0.9, "Probability of a dropout module at the start, 0 to 1.")
    dropout_extreme: float = threshold(0.95, "The same where a constant's loss is not known.")
    initial_min: float = threshold(
        3.0, "Loss relative to that of a constant from which a dropout is reported at once."
    )
    steps_min_dropout: int = threshold(100, "Minimum number of finished steps for a dropout.")
    dropout_high: float = threshold(0.7, "Probability of a dropout with which nothing is learned.")
    constant_share_high: float = threshold(0.9, "The share below for such a dropout.")
    steps_min_high: int = threshold(200, "Minimum number of finished steps for it.")
    constant_share: float = threshold(
        0.3, "Loss as a share of that of a constant prediction; a dropout is reported above it."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield at most two findings: the decay of the weights, and the largest dropout."""
        decayed = [*self._decay(history)] or [*self._outweighs(history)]
        yield from decayed or [*self._tables(history)] or self._penalty(history)
        if found := dropped_output(self, history) or self._dropout(history):
            yield found

    def _tables(self, history: History) -> Iterator[Finding]:
        """Yield a finding if the decay shrinks the embeddings, which few samples of a batch use."""
        decay, course = newest_of_groups(history, Scalar.WEIGHT_DECAY), Course(history)
        is_added = history.facts.get("optimizer") in ADDING
        if not (is_added and decay >= self.table_decay_min) or not course.constant:
            return
        late = course.known and len(course.loss) >= self.steps_min_penalty
        level, shares = course.now(20) / course.constant, norm_shares(history, tables=True)
        run = int(trailing_run(shares.values <= self.norm_share))
        if run < self.observations or not late or level <= self.unexplained_min:
            return
        now = float(shares.values[-1])
        yield self.finding(
            severity=Severity.WARNING,
            since_step=int(shares.steps[-run]),
            summary=f"Over-regularised: with a weight decay of {number(decay)}, the embeddings "
            f"have {percent(now)} of their first norm (median table), and the loss is still "
            f"{number(level)} times that of a constant prediction.",
            evidence=(
                self._norm(now, "embeddings"),
                self._above_constant(level, self.unexplained_min),
                Evidence(quantity="largest weight decay of the parameter groups", seen=decay),
            ),
            confidence=0.75,
            stream=Stream.WEIGHT,
            statistic=Stat.L2,
        )

    def _outweighs(self, history: History) -> Iterator[Finding]:
        """Yield a finding if a step's decay is larger than the weights, or than the gradient."""
        decay, course = newest_of_groups(history, Scalar.WEIGHT_DECAY), Course(history)
        if not decay > 0 or not course.known or course.converged:
            return
        rate = decay * newest_of_groups(history, Scalar.LEARNING_RATE)
        optimizer = history.facts.get("optimizer")
        fall = 1 - course.now(20) / course.initial if course.initial > 0 else 1.0
        infinite = bool((history.scalar(Scalar.NONFINITE_LOSS).values > 0).any())
        lost = infinite or (fall <= self.fall_min and len(course.loss) >= self.steps_min)
        apart = "True" in recorded(history, "decoupled_weight_decay")
        is_added = optimizer in ADDING and not apart
        ratio = decay * weight_over_gradient(history)
        if optimizer in SHRINKING and rate >= self.rate_max:
            text = f"a step multiplies each weight by 1 − {number(rate)}, learning rate times"
            evidence = self._more_than("learning rate times weight decay", rate, self.rate_max)
        elif is_added and lost and ratio > self.outweighs_max:
            text = f"at the start {number(decay)} · ‖W‖ is {times(ratio)} the gradient's norm, by"
            evidence = self._more_than(
                "weight decay times the weights, relative to the gradient (norms)",
                ratio,
                self.outweighs_max,
            )
        else:
            return
        yield self.finding(
            severity=Severity.ERROR,
            since_step=int(course.loss.steps[0]),
            summary=f"Over-regularised: {text} the weight decay ({number(decay)}).",
            evidence=(
                evidence,
                Evidence(quantity="largest weight decay of the parameter groups", seen=decay),
            ),
            confidence=0.95,
            stream=Stream.WEIGHT,
            statistic=Stat.L2,
        )

    def _more_than(self, quantity: str, seen: float, limit: float) -> Evidence:
        return Evidence(
            quantity=quantity, seen=seen, limit=limit, direction="above", healthy=(0.0, 0.1 * limit)
        )

    def _penalty(self, history: History) -> Iterator[Finding]:
        """Yield a finding if a penalty in the loss shrinks the weights and outweighs the data."""
        course = Course(history)
        constant = course.constant
        if not constant or not course.known or len(course.loss) < self.steps_min_penalty:
            return
        explained = largest_loss(history)
        penalty = 1 - explained / course.initial if course.initial > 0 else 0.0
        unexplained = course.now(20) / constant
        shares = norm_shares(history)
        run = int(trailing_run(shares.values <= self.norm_share))
        if run < self.observations_penalty or penalty < self.penalty_min:
            return
        if unexplained < self.unexplained_min:
            return
        now, since = float(shares.values[-1]), int(shares.steps[-run])
        yield self.finding(
            severity=Severity.WARNING,
            since_step=since,
            summary=f"Over-regularised: {percent(penalty)} of the first loss was not an error of "
            f"the predictions but another term, such as a penalty on the weights; the weights have "
            f"{percent(now)} of their first norm (median matrix), and the loss is still "
            f"{number(unexplained)} times that of a constant prediction.",
            evidence=(
                Evidence(
                    quantity="share of the first loss that the predictions cannot explain",
                    seen=penalty,
                    limit=self.penalty_min,
                    direction="above",
                    healthy=(0.0, 0.2),
                    unit="share",
                ),
                self._norm(now),
                Evidence(
                    quantity="loss now, relative to that of a constant prediction",
                    seen=unexplained,
                    limit=self.unexplained_min,
                    direction="above",
                    healthy=(0.0, 0.5),
                ),
            ),
            fix="",  # the weight of the penalty is a number of the program's own code
            confidence=0.75,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    def _norm(self, share: float, name: str = "weight matrices") -> Evidence:
        return Evidence(
            quantity=f"norm of the {name} as a share of its first value (median)",
            seen=share,
            limit=self.norm_share,
            direction="below",
            healthy=(0.8, None),
            unit="share",
        )

    def _dropout(self, history: History) -> Finding | None:
        found = strong_dropout(
            history,
            Limits(self.dropout_max, self.constant_share, self.steps_min_dropout),
            Limits(self.dropout_high, self.constant_share_high, self.steps_min_high),
            extreme=self.dropout_extreme,
            initial_min=self.initial_min,
        )
        if found is None:
            return None
        course, largest = Course(history), found.probability
        loss = number(course.shown(found.now))
        return self.finding(
            severity=found.severity,
            where=found.where,
            since_step=int(course.loss.steps[0]),
            summary=f"Over-regularised: a dropout has the probability {number(largest)} and keeps "
            f"{percent(1 - largest)} of the units, and the loss is {loss}"
            + f"; that of a constant prediction is {number(course.shown(found.constant))}"
            * (found.constant > 0)
            + ".",
            evidence=(
                Evidence(
                    quantity="largest probability of a dropout module",
                    seen=largest,
                    limit=found.limit,
                    direction="above",
                    healthy=(0.0, 0.5),
                ),
                Evidence(
                    quantity="loss as a share of that of a constant prediction",
                    seen=found.now / found.constant,
                    limit=found.level,
                    direction="above",
                    unit="share",
                ),
            ),
            fix=LESS_DROPOUT,
            confidence=0.8,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    def _decay(self, history: History) -> Iterator[Finding]:
        decay = newest_of_groups(history, Scalar.WEIGHT_DECAY)
        course = Course(history)
        if not decay > 0 or not course.known or course.converged:
            return
        if len(course.loss) < self.steps_min:
            return
        fall = 1 - course.now(20) / course.initial if course.initial > 0 else 1.0
        shares = norm_shares(history)
        run = int(trailing_run(shares.values <= self.norm_share))
        level = course.now(20) / course.constant if course.constant else 0.0
        late = len(course.loss) >= self.steps_min_penalty
        above = level > self.level_min and late
        learning_rate = newest_of_groups(history, Scalar.LEARNING_RATE)
        rate = decay * learning_rate
        decoupled = history.facts.get("optimizer") in SHRINKING
        heavy = late and decoupled and rate >= self.rate_min and level > self.unexplained_min
        if run < self.observations or (fall > self.fall_min and not (above or heavy)):
            return
        broken = fall <= self.fall_min or above
        now, since = float(shares.values[-1]), int(shares.steps[-run])
        yield self.finding(
            severity=Severity.ERROR if broken else Severity.WARNING,
            since_step=since,
            summary=f"Over-regularised: with a weight decay of {number(decay)}, the weights have "
            f"{percent(now)} of their first norm (median matrix), and the loss went from "
            f"{number(course.shown(course.initial), 4)} to only "
            f"{number(course.shown(course.now(20)), 4)}.",
            evidence=(
                self._norm(now),
                self._no_fall(fall)
                if fall <= self.fall_min
                else self._above_constant(level, self.level_min if above else self.unexplained_min),
                Evidence(quantity="largest weight decay of the parameter groups", seen=decay),
                Evidence(quantity="learning rate", seen=learning_rate),
            ),
            confidence=0.95 if broken else 0.8,
            stream=Stream.WEIGHT,
            statistic=Stat.L2,
        )

    def _no_fall(self, fall: float) -> Evidence:
        return Evidence(
            quantity="fall of the loss since the start",
            seen=fall,
            limit=self.fall_min,
            direction="below",
            unit="share",
        )

    def _above_constant(self, level: float, limit: float) -> Evidence:
        return Evidence(
            quantity="loss relative to that of a constant prediction",
            seen=level,
            limit=limit,
            direction="above",
        )

    @staticmethod
    def sick() -> History:
        """Return weights that lose 5 % in each step, and a loss that stays at ln 10."""
        return _run(np.full(60, 2.303), 1.0)

    @staticmethod
    def healthy() -> History:
        """Return large first weights that shrink as fast, while the loss falls."""
        return _run(30 * np.exp(-np.arange(60) / 20), 0.1)


def _run(loss: Column, decay: float) -> History:
    steps = len(np.asarray(loss))
    places = [Place(f"{i}.weight", "weight", (32, 32), i, str(i)) for i in range(3)]
    norm = 5 * 0.95 ** np.arange(steps)
    return (
        Example(steps)
        .scalars(loss=loss, learning_rate__0=0.05, weight_decay__0=decay)
        .stream(Stream.WEIGHT, places, {p.name: {Stat.L2: norm} for p in places})
        .history
    )
