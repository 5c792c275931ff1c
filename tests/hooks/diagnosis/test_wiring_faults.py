"""Real small trainings: a fault is the headline within few steps, and its repair is silent."""

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from helpers.short_and_slow import parameters  # noqa: E402
from helpers.small_runs import layers  # noqa: E402
from helpers.wiring_runs import (  # noqa: E402
    BCE,
    STEPS,
    Detach,
    Encoder,
    Run,
    Stem,
    binary,
    frozen_head,
    head_only,
    ignored,
    in_eval_mode,
    masked,
    mlp,
    nll_of_log,
    normed,
    numbers,
    one_hot,
    policy,
    reinforce,
    sorted_by_class,
    train,
    two_terms,
    weighted,
    with_penalty,
)

# Fault → (rule, last step of the first alarm, faulty run, repaired run).
FAULTS: dict[str, tuple[str, int, Callable[[], Run], Callable[[], Run]]] = {
    "no zero_grad": (
        "missing_zero_grad", 2,
        lambda: Run(mlp(), zero_grad=False),
        lambda: Run(mlp(), accumulate=3),
    ),
    "softmax before a cross entropy": (
        "softmax_before_cross_entropy", 0,
        lambda: Run(mlp(last=nn.Softmax(1))),
        lambda: Run(mlp()),
    ),
    "sigmoid before BCEWithLogitsLoss": (
        "softmax_before_cross_entropy", 0,
        lambda: Run(mlp(last=nn.Sigmoid()), one_hot(BCE)),
        lambda: Run(mlp(), one_hot(BCE)),
    ),
    "softmax before BCEWithLogitsLoss": (
        "softmax_before_cross_entropy", 0,
        lambda: Run(mlp(last=nn.Softmax(1)), one_hot(BCE)),
        lambda: Run(mlp(last=nn.Sigmoid()), one_hot(F.binary_cross_entropy)),
    ),
    "log_softmax over the batch": (
        "softmax_before_cross_entropy", 0,
        lambda: Run(mlp(), lambda o, y: F.nll_loss(o.log_softmax(0), y)),
        lambda: Run(mlp(), nll_of_log),
    ),
    "sigmoid before a cross entropy": (
        "output_range_mismatch", 0,
        lambda: Run(mlp(last=nn.Sigmoid())),
        lambda: Run(mlp()),
    ),
    "ReLU behind a regression of both signs": (
        "output_range_mismatch", 2,
        lambda: Run(mlp(last=nn.ReLU(), outputs=1), F.mse_loss, data=numbers()),
        lambda: Run(mlp(outputs=1), F.mse_loss, data=numbers()),
    ),
    "tanh for targets up to 10": (
        "output_range_mismatch", 2,
        lambda: Run(mlp(last=nn.Tanh(), outputs=1), F.mse_loss, data=numbers(shift=5.0)),
        lambda: Run(mlp(outputs=1), F.mse_loss, data=numbers()),
    ),
    "softmax into NLLLoss": (
        "loss_task_mismatch", 0,
        lambda: Run(mlp(last=nn.Softmax(1)), F.nll_loss),
        lambda: Run(mlp(last=nn.LogSoftmax(1)), F.nll_loss),
    ),
    "logits into NLLLoss": (
        "loss_task_mismatch", 0,
        lambda: Run(mlp(), F.nll_loss),
        lambda: Run(mlp(), nll_of_log),
    ),
    "a softmax and a logarithm in two steps": (
        "loss_task_mismatch", 0,
        lambda: Run(mlp(), lambda o, y: F.nll_loss((150 * o).softmax(1).log(), y)),
        lambda: Run(mlp(), lambda o, y: F.nll_loss(o.softmax(1).log(), y)),
    ),
    "a column against a row": (
        "loss_task_mismatch", 0,
        lambda: Run(mlp(outputs=1), F.mse_loss, data=numbers((-1,))),
        lambda: Run(mlp(outputs=1), lambda o, y: F.mse_loss(o[:, 0], y), data=numbers((-1,))),
    ),
    "a column against a row, in tensor operations": (
        "loss_task_mismatch", 0,
        lambda: Run(
            mlp(outputs=1), lambda o, y: ((o - y) ** 2).mean(), data=numbers((-1,)),
            gives_tensors=True,
        ),
        lambda: Run(
            mlp(outputs=1), lambda o, y: ((o[:, 0] - y) ** 2).mean(), data=numbers((-1,)),
            gives_tensors=True,
        ),
    ),
    "squared error on class numbers": (
        "loss_task_mismatch", 2,
        lambda: Run(
            mlp(), lambda o, y: ((o - y[:, None].float()) ** 2).mean(), gives_tensors=True
        ),
        lambda: Run(mlp(), one_hot(F.mse_loss), gives_tensors=True),
    ),
    "a binary loss for three classes": (
        "loss_task_mismatch", 2,
        lambda: Run(mlp(outputs=1), BCE, data=binary(lambda y: y % 3)),
        lambda: Run(mlp(outputs=1), BCE, data=binary(lambda y: y % 2)),
    ),
    "tanh before BCEWithLogitsLoss, with class numbers given to monitor.loss": (
        "output_range_mismatch", 0,
        lambda: Run(mlp(last=nn.Tanh()), one_hot(BCE), gives_tensors=True),
        lambda: Run(mlp(), one_hot(BCE), gives_tensors=True),
    ),
    "a cross entropy with a minus": (
        "loss_task_mismatch", 2,
        lambda: Run(mlp(), lambda o, y: -F.cross_entropy(o, y)),
        lambda: Run(mlp(), reinforce),
    ),
    "BatchNorm in eval mode": (
        "wrong_train_eval_mode", 1,
        lambda: in_eval_mode(normed()),
        lambda: Run(normed()),
    ),
    "eval mode from a validation on": (
        "wrong_train_eval_mode", 6,
        lambda: in_eval_mode(normed(), from_step=5),
        lambda: in_eval_mode(normed(), from_step=100),
    ),
    "a detached encoder": (
        "no_gradient", 2,
        lambda: Run(nn.Sequential(*layers(64, 32, 16), nn.ReLU(), Detach(), nn.Linear(16, 10))),
        lambda: Run(mlp()),
    ),
    "a small first layer that is detached": (
        "no_gradient", 2,
        lambda: Run(Stem(is_cut=True)),
        lambda: Run(Stem(is_cut=False)),
    ),
    "an encoder under no_grad": (
        "no_gradient", 19,
        lambda: Run(Encoder("no_grad")),
        lambda: Run(Encoder()),
    ),
    "a part that is never called": (
        "no_gradient", 19,
        lambda: Run(Encoder("call")),
        lambda: Run(Encoder()),
    ),
    "only the head in the optimizer": (
        "parameter_not_updated", 4,
        lambda: head_only(pretrained=False),
        lambda: head_only(pretrained=True),
    ),
    "a step before the backward": (
        "no_gradient", 2,
        lambda: Run(mlp(), step_first=True),
        lambda: Run(mlp()),
    ),
    "a frozen output layer": (
        "no_gradient", 2,
        frozen_head,
        lambda: Run(mlp()),
    ),
    "every target ignored": (
        "no_supervision", 0,
        lambda: Run(mlp(), data=ignored(1.0)),
        lambda: Run(mlp(), data=ignored(0.5)),
    ),
    "every target masked": (
        "no_supervision", 1,
        lambda: Run(mlp(), masked(0.0)),
        lambda: Run(mlp(), masked(1.0)),
    ),
    "the loss times 0": (
        "no_supervision", 2,
        lambda: Run(mlp(), lambda o, y: 0.0 * F.cross_entropy(o, y)),
        lambda: Run(mlp(), lambda o, y: 0.5 * F.cross_entropy(o, y)),
    ),
    "a detached term": (
        "loss_term_inactive", 2,
        lambda: Run(mlp(), two_terms(detached=True)),
        lambda: Run(mlp(), two_terms(detached=False)),
    ),
    "the main term times 0": (
        "loss_term_inactive", 2,
        lambda: Run(mlp(), weighted(0.0)),
        lambda: Run(mlp(), weighted(0.1)),
    ),
    "a loss of a detached output beside a penalty": (
        "loss_term_inactive", 2,
        lambda: with_penalty(detached=True),
        lambda: with_penalty(detached=False),
    ),
    "data sorted by class": (
        "constant_or_duplicate_input", 15,
        lambda: Run(mlp(), order=sorted_by_class),
        lambda: Run(mlp()),
    ),
    "equal rewards": (
        "no_signal", 19,
        lambda: Run(mlp(), policy(lambda hit: torch.ones(len(hit)))),
        lambda: Run(mlp(), policy(lambda hit: hit.float())),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_the_headline_within_few_steps(name):
    torch.manual_seed(0)
    rule, latest, faulty, _ = FAULTS[name]
    seen = train(faulty(), each_until=latest)
    assert seen.headline == rule
    assert 0 <= seen.first_alarm <= latest


# Another fault has the same repaired program, or one with the same loss.
SLOW = {
    *("sigmoid before BCEWithLogitsLoss", "sigmoid before a cross entropy"),
    *("log_softmax over the batch", "logits into NLLLoss", "a detached encoder"),
    *("tanh for targets up to 10", "a part that is never called", "a frozen output layer"),
    *("a step before the backward", "data sorted by class", "every target masked"),
    *("the loss times 0", "the main term times 0"),
}


@pytest.mark.parametrize("repaired", parameters({n: f[3] for n, f in FAULTS.items()}, slow=SLOW))
def test_the_repaired_program_is_met_with_silence(repaired):
    torch.manual_seed(0)
    assert train(repaired(), 2 * STEPS).alarms == set()
