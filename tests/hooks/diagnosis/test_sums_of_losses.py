"""A loss that is a sum of losses is judged by its terms."""

import numpy as np
import pytest

from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.initial import initial_loss
from trainvitals.diagnosis.loss_parts import loss_parts
from trainvitals.diagnosis.rules.initial_loss_anomaly import InitialLossAnomaly
from trainvitals.diagnosis.rules.loss_task_mismatch import LossTaskMismatch
from trainvitals.diagnosis.rules.loss_term_inactive import LossTermInactive
from trainvitals.diagnosis.rules.no_learning import NoLearning
from trainvitals.diagnosis.rules.target_not_scaled import TargetNotScaled
from trainvitals.diagnosis.supervision import loss_of_constant, usual_loss_of_constant
from trainvitals.diagnosis.trained_before import trained_before
from trainvitals.wire import STATISTICS, Event, EventKind, Layout, Place, Scalar, Stream

TERMS = ("BCEWithLogitsLoss", "SmoothL1Loss")


def run(steps, labels, number, constants=(0.6, 0.4), *, kinds=TERMS, classes=0, scales="", **more):
    """Return a history whose loss is the sum of two terms, measured at every step."""
    labels, number = np.broadcast_to(labels, steps), np.broadcast_to(number, steps)
    scalars = {
        "loss": labels + number,
        "part_of_loss__0": labels,
        "part_of_loss__1": number,
        "part_of_constant__0": constants[0],
        "part_of_constant__1": constants[1],
        "loss_of_constant": sum(constants),
        **{f"prediction_{s}": v for s, v in (("min", -1), ("max", 1), ("mean", 0), ("std", 1))},
    }
    history = Example(steps).scalars(**scalars | more).history
    attributes = {"terms": ",".join(kinds), "reduction": "mean", "classes": float(classes)}
    attributes["scales"] = scales
    text = " + ".join(dict.fromkeys(kinds))
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, text, attributes))
    return history


def noise(steps, std):
    return np.random.default_rng(0).normal(0, std, steps)


def test_its_constant_is_what_was_measured():
    history = run(20, 0.5, 0.2)
    assert loss_of_constant(history) == pytest.approx(1.0)
    assert usual_loss_of_constant(history) == pytest.approx(1.0)
    assert [part.kind for part in loss_parts(history)] == [*TERMS]


def test_two_terms_of_one_kind_are_a_sum_too():
    kinds = ("CrossEntropyLoss", "CrossEntropyLoss")
    history = run(20, 1.0, 1.0, (1.04, 1.04), kinds=kinds, classes=8)
    assert loss_of_constant(history) == pytest.approx(2.08)
    assert usual_loss_of_constant(history) == pytest.approx(2.08)


def test_losses_of_different_programs_have_no_terms():
    history = run(20, 0.5, 0.2)
    history.add(Event(9, 0.0, EventKind.LOSS_KIND, "MSELoss", {}))
    assert loss_parts(history) == []
    assert loss_of_constant(history) is None


@pytest.mark.parametrize(("first", "found"), [(0.7, 0), (40.0, 1)])
def test_a_first_loss_far_above_its_constant_is_an_anomaly(first, found):
    history = run(6, np.linspace(first, first - 0.1, 6), 0.4)
    assert initial_loss(history).expected == pytest.approx(1.0)
    assert len([*InitialLossAnomaly().check(history)]) == found


@pytest.mark.parametrize(("rows", "found"), [(32, 1), (16, 0)], ids=["classes", "samples"])
def test_the_first_loss_of_a_contrastive_sum_depends_on_its_temperature(rows, found):
    kinds = ("CrossEntropyLoss", "CrossEntropyLoss")
    history = run(6, 5.0, 5.0, (1.73, 1.73), kinds=kinds, classes=32)
    head = Place("head.weight", kind="weight", shape=(rows, 8), flags=("output",))
    history.add(Layout(Stream.WEIGHT, 0, STATISTICS[Stream.WEIGHT], (head,)))
    assert len([*InitialLossAnomaly().check(history)]) == found


def test_a_first_loss_that_its_terms_do_not_account_for_is_none():
    history = run(6, 0.7, 0.4, loss=50.0)
    assert [*InitialLossAnomaly().check(history)] == []


@pytest.mark.parametrize(("sign", "found"), [(-1, 1), (1, 0)])
def test_a_sum_whose_terms_are_all_negative_has_the_wrong_sign(sign, found):
    history = run(6, sign * 0.7, sign * 0.4, (sign * 0.6, sign * 0.4))
    findings = [*LossTaskMismatch().check(history)]
    assert len(findings) == found
    assert all("wrong sign" in f.summary for f in findings)


@pytest.mark.parametrize(
    ("scale", "since", "found"),
    [(1.0, 8000.0, 1), (1e4, 8000.0, 0), (float("nan"), 8000.0, 0), (1.0, 3.0, 0)],
    ids=["prices", "a large factor", "an unknown factor", "near"],
)
def test_a_term_far_from_its_targets_shows_that_they_are_not_scaled(scale, since, found):
    history = run(6, 0.7, since, (0.6, since / 5), scales=f"1,{scale}")
    findings = [*TargetNotScaled().check(history)]
    assert len(findings) == found
    assert all("SmoothL1Loss" in f.summary and not f.fix for f in findings)


def test_a_negative_loss_that_is_not_known_is_no_wrong_sign():
    history = Example(6).scalars(loss=-0.3).history
    attributes = {"wiring": "prediction_and_target_broadcast", "reduction": "mean"}
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "", attributes))
    assert [*LossTaskMismatch().check(history)] == []


def test_a_negative_poisson_term_is_no_wrong_sign():
    kinds = ("PoissonNLLLoss", "SmoothL1Loss")
    history = run(6, -0.7, -0.4, (-0.6, -0.4), kinds=kinds)
    assert [*LossTaskMismatch().check(history)] == []


@pytest.mark.parametrize(
    ("labels", "share", "found"),
    [
        (np.full(40, 0.62), 1e-4, 1),
        (np.linspace(0.62, 0.1, 40), 1e-4, 0),  # hidden, and learned
        (np.full(40, 0.62), 0.1, 0),  # a term with a small weight
    ],
    ids=["hidden", "learned", "small"],
)
def test_a_term_that_another_one_hides_is_inactive(labels, share, found):
    history = run(40, labels, 0.6 / share, (0.6, 0.5 / share))
    findings = [*LossTermInactive().check(history)]
    assert len(findings) == found
    assert all("BCEWithLogitsLoss" in f.summary for f in findings)


def test_a_hidden_term_whose_constant_is_zero_has_nothing_to_learn():
    history = run(40, np.full(40, 0.62), 6200.0, (0.0, 5000.0))
    assert [*LossTermInactive().check(history)] == []


@pytest.mark.parametrize(("first", "trained"), [(0.3, True), (1.1, False)])
def test_a_sum_that_begins_below_its_constant_was_trained_before(first, trained):
    history = run(20, 0.6 * first, 0.4 * first)
    assert trained_before(history, first) is trained


def test_a_sum_that_is_divided_by_an_unknown_number_tells_nothing_about_that():
    history = run(20, 0.6, 0.4, loss=0.01)
    assert not trained_before(history, 0.01)


@pytest.mark.parametrize(("level", "found"), [(1.0, 1), (0.6, 0)])
def test_a_sum_that_stays_at_its_constant_does_not_learn(level, found):
    course = np.concatenate((np.linspace(1.4, 1.0, 30), np.linspace(1.0, level, 570)))
    history = run(600, 0.6 * course + noise(600, 0.05), 0.4 * course)
    assert len([*NoLearning().check(history)]) == found


@pytest.mark.parametrize(("total", "found"), [(3.0, 1), (1.0, 0)])
def test_several_true_classes_in_a_cross_entropy_are_a_mismatch(total, found):
    history = Example(6).scalars(loss=2.0, target_row_sum_max=total).history
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", {"classes": 6.0}))
    findings = [*LossTaskMismatch().check(history)]
    assert len(findings) == found
    assert all(f.evidence[0].statistic == Scalar.TARGET_ROW_SUM_MAX for f in findings)
