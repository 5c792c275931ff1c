"""What a training loss compares is measured: predictions, targets, masks, terms, gradients."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import trainvitals
from helpers.supervised_loop import CLASSES, KINDS, VALUES, Loop, X, losses, one_step
from trainvitals.capture.capture import Capture
from trainvitals.diagnosis.history import History

# Predictions and targets.


def test_predictions_and_targets_of_a_regression_are_measured():
    loop = Loop()
    prediction = loop.model(X)
    loop.step(F.mse_loss(prediction, VALUES))
    for name, x in (("prediction", prediction.detach()), ("target", VALUES)):
        assert loop.scalar(f"{name}_min") == [float(x.min())]
        assert loop.scalar(f"{name}_max") == [float(x.max())]
        assert loop.scalar(f"{name}_mean") == [pytest.approx(float(x.mean()), rel=1e-5)]
        assert loop.scalar(f"{name}_std") == [pytest.approx(float(x.std(correction=0)), rel=1e-5)]
    assert loop.scalar("prediction_row_sum_min") == []
    assert loop.scalar("supervised_share") == [1.0]


def test_the_logits_of_a_cross_entropy_are_those_of_the_model():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 3))
    logits = model(X).detach()
    loop = one_step(KINDS["CrossEntropyLoss"], model)
    assert loop.scalar("prediction_min") == [pytest.approx(float(logits.min()), rel=1e-5)]
    sums = logits.sum(1)
    assert loop.scalar("prediction_row_sum_max") == [pytest.approx(float(sums.max()), rel=1e-4)]


def test_the_logits_of_a_language_model_are_found_behind_views():
    model = nn.Sequential(nn.Linear(6, 3))
    tokens = torch.randn(2, 4, 6)
    loop = Loop(model)
    logits = model(tokens)
    loop.step(F.cross_entropy(logits[:, :-1].reshape(-1, 3).float(), CLASSES[:6]))
    assert loop.scalar("prediction_max") == [pytest.approx(float(logits.max()))]


def test_probabilities_in_a_cross_entropy_have_rows_that_sum_to_one():
    loop = one_step(lambda y: F.cross_entropy(y.softmax(1), CLASSES))
    assert loop.scalar("prediction_min")[0] >= 0
    assert loop.scalar("prediction_row_sum_min") == [pytest.approx(1)]
    assert loop.scalar("prediction_row_sum_max") == [pytest.approx(1)]


def test_classes_are_counted():
    loop = one_step(KINDS["CrossEntropyLoss"])
    assert loop.scalar("target_classes") == [3]
    assert loop.scalar("target_majority_share") == [0.75]
    [event] = loop.events("class_histogram")
    assert event.attributes == {"0": 1.0, "1": 6.0, "2": 1.0}


def test_the_histogram_is_summed_over_the_first_batches():
    loop = Loop()
    for _ in range(9):
        loop.step(KINDS["CrossEntropyLoss"])
    histograms = loop.events("class_histogram")
    assert [e.attributes["1"] for e in histograms] == [6.0, 48.0]


def test_a_batch_whose_loss_is_reported_twice_counts_once():
    history, criterion = History(), nn.CrossEntropyLoss()
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    capture = Capture(model, optimizer, emit=history.add, every=1, loss=criterion)
    output = model(X)
    loss = criterion(output, CLASSES)
    capture.loss(loss, prediction=output, target=CLASSES)
    loss.backward()
    optimizer.step()
    capture.detach()
    [event] = [e for e in history.events if e.kind == "class_histogram"]
    assert event.attributes == {"0": 1.0, "1": 6.0, "2": 1.0}
    assert event.text == "3 classes in 1 batch"


def test_whole_numbers_in_a_mean_squared_error_are_classes():
    loop = one_step(lambda y: F.mse_loss(y[:, 0], CLASSES.float()))
    assert loop.scalar("target_classes") == [3]


def test_fractions_are_no_classes():
    assert one_step(KINDS["MSELoss"]).scalar("target_classes") == []


def test_prediction_and_target_can_be_given():
    prediction, target = torch.rand(8, 3), CLASSES
    loss = nn.Linear(1, 1)(torch.ones(1)).sum()
    loop = Loop().step(loss, prediction=prediction, target=target)
    assert loop.scalar("prediction_min") == [float(prediction.min())]
    assert loop.scalar("prediction_row_sum_min") == [pytest.approx(float(prediction.sum(1).min()))]
    assert loop.scalar("target_classes") == [3]


def test_what_is_given_has_precedence_over_the_graph():
    loop = one_step(KINDS["MSELoss"], target=torch.full((8, 3), 7.0))
    assert loop.scalar("target_min") == [7]


def test_targets_that_the_loss_computes_from_the_given_ones_are_measured_in_the_graph():
    times, intervals = torch.full((8, 2), 7.0), (VALUES > 0).float()
    loop = Loop()
    prediction = loop.model(X)
    loss = F.binary_cross_entropy_with_logits(prediction, intervals)
    loop.step(loss, prediction=prediction, target=times)
    assert loop.scalar("target_max") == [1]


@pytest.mark.parametrize("given", ["a string", [1, 2], torch.empty(0), {"a": torch.ones(1)}])
def test_things_that_are_no_tensors_are_ignored(given):
    loop = one_step(KINDS["CrossEntropyLoss"], prediction=given, target=given)
    assert loop.capture.step == 0
    assert not [name for name in loop.capture.not_watched if "supervision" in name]


# Supervised elements.


def test_ignored_targets_are_no_supervision():
    target = torch.where(CLASSES == 1, -100, CLASSES)
    loop = one_step(lambda y: F.cross_entropy(y, target))
    assert loop.scalar("supervised_share") == [0.25]
    assert (loop.scalar("target_min"), loop.scalar("target_max")) == ([0], [2])


def test_a_batch_in_which_all_targets_are_ignored_has_no_supervision():
    loop = one_step(lambda y: F.cross_entropy(y, CLASSES * 0 - 100))
    assert loop.scalar("supervised_share") == [0]
    assert loop.scalar("target_min") == []
    assert loop.scalar("target_classes") == [0]


def test_another_ignore_index_and_classes_of_weight_zero_count():
    loop = one_step(lambda y: F.cross_entropy(y, CLASSES, ignore_index=1))
    assert loop.scalar("supervised_share") == [0.25]
    weight = torch.tensor([1.0, 0.0, 1.0])
    loop = one_step(lambda y: F.cross_entropy(y, CLASSES, weight=weight))
    assert loop.scalar("supervised_share") == [0.25]


MASK = CLASSES != 1


@pytest.mark.parametrize(
    "loss",
    [
        lambda y: (losses(y) * MASK).sum() / MASK.sum(),
        lambda y: (MASK.float() * losses(y)).mean(),
        lambda y: losses(y)[MASK].mean(),
        lambda y: losses(y).masked_select(MASK).mean(),
        lambda y: losses(y).masked_fill(~MASK, 0).sum(),
        lambda y: torch.where(MASK, losses(y), 0.0).mean(),
        lambda y: ((y - VALUES).square() * MASK[:, None]).mean(),
        lambda y: (F.mse_loss(y, VALUES, reduction="none") * MASK[:, None]).mean(),
        lambda y: F.binary_cross_entropy_with_logits(y, VALUES, MASK[:, None].expand(8, 3).float()),
    ],
)
def test_masked_elements_are_no_supervision(loss):
    assert one_step(loss).scalar("supervised_share") == [0.25]


def test_advantages_of_a_policy_gradient_are_no_mask():
    advantages = torch.tensor([0.0, 0, 0, 0, 1, -1, 0, 0])
    assert one_step(lambda y: (losses(y) * advantages).mean()).scalar("supervised_share") == [1]


def test_the_share_covers_the_micro_batches_of_a_step():
    loop = Loop()
    for target in (CLASSES, CLASSES * 0 - 100):
        loss = F.cross_entropy(loop.model(X), target)
        loop.capture.loss(loss)
        loss.backward()
    loop.optimizer.step()
    assert loop.scalar("supervised_share") == [0.5]


# Terms.


def test_the_terms_of_a_dict_are_recorded_and_their_sum_is_the_loss():
    loop = one_step(lambda y: {"ce": losses(y).mean(), "kl": y.square().mean()})
    [ce], [kl] = loop.scalar("loss_term/ce"), loop.scalar("loss_term/kl")
    assert loop.scalar("loss") == [pytest.approx(ce + kl)]


def test_the_entry_loss_of_a_dict_is_the_total():
    loop = Loop()
    ce = losses(loop.model(X)).mean()
    loop.capture.loss({"loss": ce * 2, "ce": ce})
    (ce * 2).backward()
    loop.optimizer.step()
    assert loop.scalar("loss") == [pytest.approx(2 * float(ce))]
    assert loop.scalar("loss_term/ce") == [pytest.approx(float(ce))]
    assert loop.scalar("loss_term/loss") == []


def test_terms_are_averaged_over_micro_batches():
    loop = Loop()
    for factor in (1, 3):
        loop.capture.loss({"ce": torch.tensor(float(factor)), "l2": 1.0})
    loop.step(loop.model(X).sum(), report=False)
    assert loop.scalar("loss_term/ce") == [2]
    assert loop.scalar("loss") == [3]


def test_a_term_that_is_none_is_left_out():
    loop = Loop()
    loop.capture.loss({"ce": losses(loop.model(X)).mean(), "aux": None})
    loop.step(loop.model(X).sum(), report=False)
    assert len(loop.scalar("loss")) == len(loop.scalar("loss_term/ce")) == 1
    assert loop.scalar("loss_term/aux") == []


def test_a_term_without_a_gradient_is_named():
    loop = one_step(lambda y: {"ce": losses(y).mean(), "kl": y.square().mean().detach()})
    [event] = loop.events()
    assert event.attributes["detached_terms"] == "kl"


def test_a_non_finite_term_names_its_operation():
    loop = one_step(lambda y: {"a": y.square().mean(), "b": (y * 0).log().sum()})
    [event] = loop.events("nonfinite_loss")
    assert event.text == "log"


def test_the_monitor_returns_the_very_same_object():
    model = nn.Linear(6, 3)
    with trainvitals.watch(model, torch.optim.SGD(model.parameters(), 0.1), collector="off") as m:
        loss = model(X).sum()
        terms = {"a": loss, "b": 2.0}
        assert m.loss(loss, prediction=X, target=X) is loss
        assert m.loss(terms) is terms
        assert m.loss(terms, split="validation") is terms


# Gradients before backward, modes.


def test_a_correct_loop_has_no_gradients_before_backward():
    loop = Loop()
    for _ in range(4):
        loop.step(KINDS["MSELoss"])
    assert loop.scalar("gradient_norm_before_backward") == [0, 0, 0, 0]


def test_without_zero_grad_the_last_gradients_are_there_before_backward():
    loop = Loop()
    for _ in range(4):
        loop.step(KINDS["MSELoss"], zero_grad=False)
    before = loop.scalar("gradient_norm_before_backward")
    assert before == pytest.approx([0, *loop.scalar("gradient_norm")[:3]], rel=1e-5)


def test_accumulation_over_micro_batches_is_no_missing_zero_grad():
    loop = Loop()
    for _ in range(3):
        loop.optimizer.zero_grad(set_to_none=False)
        for _ in range(4):
            loss = KINDS["MSELoss"](loop.model(X))
            loop.capture.loss(loss)
            loss.backward()
        loop.optimizer.step()
    assert loop.scalar("gradient_norm_before_backward") == [0, 0, 0]


def test_a_gradient_for_a_penalty_is_no_backward_of_the_step():
    loop = Loop()
    for _ in range(3):
        loss = KINDS["MSELoss"](loop.model(X))
        loop.capture.loss(loss)
        gradients = torch.autograd.grad(loss, [*loop.model.parameters()], create_graph=True)
        loop.optimizer.zero_grad()
        (loss + sum(g.square().sum() for g in gradients)).backward()
        loop.optimizer.step()
    assert loop.scalar("gradient_norm_before_backward") == [0, 0, 0]


def test_gradients_of_parameters_that_the_optimizer_does_not_own_are_left_out():
    loop = Loop(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3)), parameters=lambda m: m[1])
    for _ in range(3):
        loop.step(KINDS["MSELoss"])
    assert loop.scalar("gradient_norm_before_backward") == [0, 0, 0]


def test_normalisation_in_eval_mode_is_seen_while_the_loss_is_taken():
    model = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    loop = Loop(model)
    loop.step(KINDS["MSELoss"])
    model[1].eval()
    loop.step(KINDS["MSELoss"])
    assert loop.scalar("norm_eval_share") == [0, 0.5]
    assert one_step(KINDS["MSELoss"]).scalar("norm_eval_share") == []


# Training is not changed.


@pytest.mark.parametrize("kind", ["CrossEntropyLoss", "MSELoss", "BCELoss", "KLDivLoss"])
def test_the_weights_are_bit_identical_with_and_without_the_monitor(kind):
    def weights(**watch):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Dropout(0.3), nn.Linear(9, 3))
        loop = Loop(model, **watch)
        torch.manual_seed(4)
        for _ in range(6):
            loop.step(KINDS[kind], report=bool(watch))
        return torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    assert torch.equal(weights(every=1), weights())


def test_no_tensor_outlives_the_step():
    loop = Loop()
    for _ in range(2):
        prediction = loop.model(X)
        target = torch.rand(8, 3)
        loss = F.mse_loss(prediction, target)
        loop.capture.loss(loss, prediction=prediction, target=target)
        loss.backward()
        alive = [weakref.ref(t) for t in (prediction, target, loss)]
        del prediction, target, loss
        assert [ref() for ref in alive] == [None, None, None]  # without a garbage collection
        loop.optimizer.step()


def test_a_loss_that_is_never_trained_with_keeps_nothing():
    loop = Loop()
    gc.collect()
    gc.disable()
    try:
        target = torch.rand(8, 3)
        loop.capture.loss(F.mse_loss(loop.model(X), target))
        alive = weakref.ref(target)
        del target
        assert alive() is None
    finally:
        gc.enable()


def test_a_loss_after_its_backward_is_recorded_all_the_same():
    loop = Loop()
    loss = KINDS["CrossEntropyLoss"](loop.model(X))
    loss.backward()
    loop.capture.loss(loss)
    loop.optimizer.step()
    assert loop.scalar("loss") == [pytest.approx(float(loss))]
    assert loop.scalar("gradient_norm_before_backward") == []


def test_a_step_that_is_not_sampled_measures_the_loss_alone():
    loop = Loop(every=100)
    for _ in range(60):
        loop.step(KINDS["CrossEntropyLoss"])
    assert len(loop.scalar("loss")) == 60
    assert len(loop.scalar("supervised_share")) < 20
