"""Outputs, targets and terms of a loss that do not belong together, as the graph shows them.

Comes in: a history. Goes out: a `Mismatch`, or None.
Promise:  pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np

from trainvitals.api.schema import Evidence, Severity
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.fixes import Moment, at, of_classes
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.signals import trailing_run
from trainvitals.diagnosis.supervision import (
    BINARY_LOSSES,
    connected,
    in_graph,
    loss_kinds,
    only_loss,
)
from trainvitals.diagnosis.token_alignment import NEXT_TOKEN, token_shift
from trainvitals.wire import Scalar

OF_CLASSES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "classes_mixed_by_a_view": "the logits of {} classes are reshaped where their dimensions "
        "had to be swapped, so that one sample's logits come from several positions",
        "ignored_targets_count": "the program's targets mark some as ignored by a negative number, "
        "but the cross entropy of {} classes ignores none: these have got a class",
    }
)
"""Tokens of a cross entropy's graph and what is wrong, for a number of classes."""
POSITIVES: Final = "targets_times_log_sigmoid"
LABELS: Final = at(Moment.LOSS, "loss = F.binary_cross_entropy_with_logits(prediction, y)")
SQUARED_ERROR: Final = at(Moment.LOSS, "loss = F.mse_loss(prediction, y)")


class _Wrong(NamedTuple):
    """What a connection in the graph does, as the end of a sentence, and the code without it."""

    text: str
    severity: Severity = Severity.ERROR
    fix: str = ""


WRONG: Final[Mapping[str, _Wrong]] = MappingProxyType(
    {
        "softmax_before_kl_div": _Wrong(
            "kl_div is given the result of a softmax where it needs logarithms of probabilities",
            fix=at(
                Moment.LOSS,
                "loss = F.kl_div(prediction.log_softmax(-1), y, reduction='batchmean')",
            ),
        ),
        "pairs_neither_1_nor_minus_1": _Wrong(
            "it compares pairs by targets of 1 and −1, and some targets are neither (as with 0 for "
            "pairs that differ), so that these pairs do not count or count twice"
        ),
        "column_times_row": _Wrong(
            "a term multiplies each of n values with each of n constants, in an n × n matrix, as "
            "with log-probabilities of shape (n, 1) and advantages of shape (n,) or (n, n)",
            Severity.WARNING,
        ),
        "logarithm_of_variance_subtracted": _Wrong(
            "the logarithm of a predicted variance is subtracted from the squared error over that "
            "variance, so that the loss falls without a limit as the variance grows"
        ),
        "frames_mixed_by_a_view": _Wrong(
            "the input of CTCLoss is reshaped where its first two dimensions had to be exchanged, "
            "so that the frames of a sequence come from several sequences"
        ),
        "errors_of_all_pairs": _Wrong(
            "a likelihood compares each of n predicted means with each of n targets, as with means "
            "of shape (n, 1) and targets of shape (n,)"
        ),
        "error_without_a_square": _Wrong(
            "it is the mean or sum of prediction − target without a square, an absolute value or a "
            "logarithm, so that it falls without a limit as the prediction falls or rises",
            fix=SQUARED_ERROR,
        ),
        "all_pairs_compared": _Wrong(
            "it compares each of n predictions with each of n targets, because one of them has the "
            "shape (n, 1) and the other one (n,)",
            fix=SQUARED_ERROR,
        ),
        "one_target_repeated": _Wrong(
            "it compares several predictions of a sample with one of its targets, repeated, where "
            "each prediction has a target",
            fix=SQUARED_ERROR,
        ),
        "positive_weight_of_zero": _Wrong(
            "the pos_weight of a binary cross entropy is 0, so that the targets of 1 do not count; "
            "in Python, // rounds a share of negatives over positives down to 0",
            fix=LABELS,
        ),
        "error_averaged_before_the_square": _Wrong(
            "errors, or predictions and targets, are averaged before they are squared (or before "
            "their absolute value is taken), so that only their mean is learned",
            Severity.WARNING,
            SQUARED_ERROR,
        ),
    }
)
"""Tokens of the graph and what is wrong."""


class Mismatch(NamedTuple):
    """What does not fit, as the end of a sentence, and the code without it."""

    since: int
    text: str
    fix: str
    evidence: tuple[Evidence, ...]
    severity: Severity = Severity.ERROR


def wrong_classes(history: History) -> Mismatch | None:
    """Return a cross entropy whose logits or targets were changed on their way to it."""
    if (found := connected(history, OF_CLASSES)) is None:
        return None
    kind, token = found
    text = OF_CLASSES[token].format(kind.classes)
    return Mismatch(kind.step, text, of_classes(kind.classes), (in_graph(token),))


def wrong_graph(history: History) -> Mismatch | None:
    """Return a connection in the graph of the loss that has no other meaning than a mistake."""
    if (found := connected(history, WRONG)) is None:
        return None
    kind, token = found
    wrong = WRONG[token]
    # The targets of a loss of the program's own can be what it computes its targets from.
    fits = wrong.fix != SQUARED_ERROR or kind.prediction_shape == kind.target_shape
    fix = wrong.fix if fits else ""
    return Mismatch(kind.step, wrong.text, fix, (in_graph(token),), wrong.severity)


def positives_alone(history: History, observations: int) -> Mismatch | None:
    """Return a binary cross entropy without its second term, with targets that need it."""
    if (found := connected(history, (POSITIVES,))) is None:
        return None
    kind, token = found
    low, high = (history.scalar(name).values for name in (Scalar.TARGET_MIN, Scalar.TARGET_MAX))
    low, high = low[:observations], high[:observations]
    if len(low) < observations or not ((low == 0) & (high == 1)).all():
        return None
    text = (
        "it is the targets times the logarithm of the probability, without (1 − target) times the "
        "logarithm of 1 − probability, so that a constant prediction of 1 has a loss of 0"
    )
    return Mismatch(kind.step, text, LABELS, (in_graph(token),))


def shifted_tokens(history: History, observations: int) -> Mismatch | None:
    """Return targets that are tokens further ahead than the next one."""
    found = token_shift(history, observations)
    if found is None or found.shift <= NEXT_TOKEN:
        return None
    text = (
        f"the target of each position is the input token {found.shift} positions later, "
        "where the next token is 1 later"
    )
    return Mismatch(found.since, text, found.fix, (found.evidence,), Severity.WARNING)


def padded_targets(history: History, observations: int, share_max: float) -> Mismatch | None:
    """Return targets beside padding that count in the loss, if they are most of them."""
    share, kind = history.scalar(Scalar.PADDED_TARGETS_SHARE), only_loss(history)
    above = share.values > share_max
    run = int(trailing_run(above))
    if kind is None or run < observations:
        return None
    now = float(np.median(share.values[-run:]))
    ignoring = at(
        Moment.LOSS,
        "embeddings = [m for m in model.modules() if isinstance(m, nn.Embedding)]\n"
        "padding = next(m.padding_idx for m in embeddings if m.padding_idx is not None)\n"
        "y = y.masked_fill(x == padding, -100)\n",
    )
    return Mismatch(
        int(share.steps[-run]),
        f"{percent(now)} of the targets that count stand beside padding",
        ignoring + of_classes(kind.classes).split("\n", 1)[1],
        (
            Evidence(
                quantity="share of the supervised targets beside padding",
                seen=now,
                limit=share_max,
                direction="above",
                healthy=(0.0, 0.1),
                unit="share",
                statistic=Scalar.PADDED_TARGETS_SHARE,
            ),
        ),
        Severity.WARNING,
    )


def several_labels(history: History, observations: int, sum_max: float) -> Mismatch | None:
    """Return a softmax over labels of which several are true for one sample."""
    sums = history.scalar(Scalar.TARGET_ROW_SUM_MAX)
    known = loss_kinds(history)
    kind = next((k for k in known if "CrossEntropyLoss" in k.kinds and k.classes > 1), None)
    above = sums.values > sum_max
    run = int(trailing_run(above))
    if kind is None or run < observations:
        return None
    if kind.prediction_shape != kind.target_shape:
        return None  # a contrastive loss: the program's target is the second view
    return Mismatch(
        int(sums.steps[-run]),
        "a cross entropy over classes is given targets that sum to "
        f"{number(float(sums.values[-1]))} for one sample, so several classes are true at once",
        at(Moment.LOSS, "loss = F.binary_cross_entropy_with_logits(prediction, y)"),
        (
            Evidence(
                quantity="largest sum of a target over its classes",
                seen=float(np.median(sums.values[-run:])),
                limit=sum_max,
                direction="above",
                healthy=(1.0, 1.0),
                statistic=Scalar.TARGET_ROW_SUM_MAX,
            ),
        ),
        Severity.WARNING,
    )


def not_binary(history: History, observations: int, outside_min: float) -> Mismatch | None:
    """Return targets of a binary cross entropy that are not between 0 and 1."""
    only = only_loss(history)
    if only is None or len(only.kinds) != 1 or only.kinds[0] not in BINARY_LOSSES:
        return None
    # Class numbers that were given to monitor.loss: the loss itself compares one-hot vectors.
    if not only.target_type.startswith(("float", "bfloat", "half")):
        return None
    if only.prediction_shape != only.target_shape:
        return None
    low, high = (history.scalar(n) for n in (Scalar.TARGET_MIN, Scalar.TARGET_MAX))
    if len(low) != len(high) or len(low) < observations:
        return None
    distance = np.maximum(-low.values, high.values - 1)
    outside = distance > outside_min
    if not outside[-observations:].all():
        return None
    others = np.flatnonzero(~outside)
    smallest, largest = float(low.values[-1]), float(high.values[-1])
    span = f"{number(smallest)} to {number(largest)}"
    return Mismatch(
        int(low.steps[others[-1] + 1 if len(others) else 0]),
        f"the targets of {only.kinds[0]} are {span}, not 0 to 1",
        at(Moment.LOSS, "loss = remedies.recommend_loss(y, prediction).loss(prediction, y)"),
        (
            Evidence(
                quantity="distance of a target from the range 0 to 1",
                seen=float(distance[-1]),
                limit=outside_min,
                direction="above",
                healthy=(None, 0.0),
            ),
            Evidence(quantity="targets", seen=span),
        ),
    )
