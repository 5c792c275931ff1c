"""TV604 reports a dropout that is the last operation before the loss, on real small trainings."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from helpers.wiring_runs import Run, train  # noqa: E402
from trainvitals.api.schema import Severity  # noqa: E402
from trainvitals.diagnosis.rules.over_regularised import OverRegularised  # noqa: E402


def body(*last, outputs=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, outputs), *last)


def data(kind="numbers"):
    torch.manual_seed(0)
    x = torch.randn(400, 8)
    numbers = x @ torch.randn(8, 4) / 3
    return x, {
        "numbers": numbers,
        "classes": numbers.argmax(1),
        "labels": (numbers > 0).float(),
    }[kind]


def findings(model, loss=F.mse_loss, *, kind="numbers", forward=None, steps=3):
    """Train for three measured steps; return the findings of TV604."""
    seen = train(Run(model, loss, forward, data=data(kind)), steps)
    return list(OverRegularised().check(seen.history))


LOSSES = [
    (F.mse_loss, "numbers"),
    (F.l1_loss, "numbers"),
    (lambda o, y: (o - y).abs().mean(), "numbers"),
    (lambda o, y: ((o - y) ** 2).mean(), "numbers"),
    (F.smooth_l1_loss, "numbers"),
    (F.huber_loss, "numbers"),
    (F.cross_entropy, "classes"),
    (F.binary_cross_entropy_with_logits, "labels"),
]


@pytest.mark.parametrize(("loss", "kind"), LOSSES)
def test_a_dropout_before_the_loss_is_a_warning_within_three_measured_steps(loss, kind):
    [finding] = findings(body(nn.Dropout(0.2)), loss, kind=kind)
    assert (finding.where, finding.severity) == ("3", Severity.WARNING)
    assert "sets 20 % of the predictions to 0 and multiplies the others by 1.25" in finding.summary


@pytest.mark.parametrize("p", [0.05, 0.1, 0.3, 0.5, 0.8])
def test_its_probability_is_named(p):
    [finding] = findings(body(nn.Dropout(p)))
    assert finding.evidence[1].seen == pytest.approx(p)


class Dropped(nn.Module):
    """A dropout in one operation, as an accelerator has it."""

    def forward(self, x):
        return torch.native_dropout(x, 0.25, True)[0]


def test_a_dropout_in_one_operation_is_seen_in_the_first_step():
    [finding] = findings(body(Dropped()), steps=1)
    assert (finding.where, finding.fix) == ("", "")
    assert finding.evidence[1].seen == 0.25


def test_views_behind_it_do_not_hide_it():
    assert findings(body(nn.Dropout(0.5), nn.Unflatten(1, (2, 2)), nn.Flatten()))


def test_the_fix_turns_that_dropout_off():
    model = body(nn.Dropout(0.5), outputs=4)
    model[1] = nn.Sequential(nn.ReLU(), nn.Dropout(0.5))
    [finding] = findings(model)
    exec(finding.fix, {"model": model})
    assert (model[3].p, model[1][1].p) == (0.0, 0.5)
    assert not findings(model)


class Apart(nn.Module):
    """Two dropouts of one probability; which of them is the last one is told by forward."""

    def __init__(self):
        super().__init__()
        self.last, self.hidden = nn.Dropout(0.5), nn.Dropout(0.5)
        self.layers = nn.ModuleList([nn.Linear(8, 32), nn.Linear(32, 4)])

    def forward(self, x):
        return self.last(self.layers[1](self.hidden(self.layers[0](x).relu())))


def test_without_a_known_module_there_is_no_fix():
    [finding] = findings(Apart())
    assert (finding.where, finding.fix) == ("", "")


def test_a_dropout_before_the_last_layer_is_healthy():
    assert not findings(nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 4)), steps=6)


def test_a_dropout_in_eval_mode_is_healthy():
    assert not findings(body(nn.Dropout(0.5).eval()), steps=6)


def test_two_vectors_with_a_dropout_that_are_compared_are_healthy():
    model = body(nn.Dropout(0.5))

    def pair(x):
        return model(x), model(x)

    both = lambda o, _: F.mse_loss(o[0], o[1])  # noqa: E731
    of_a_teacher = lambda o, _: F.mse_loss(o[0], o[1].detach())  # noqa: E731

    def similar(o, _):
        a, b = F.normalize(o[0], dim=1), F.normalize(o[1], dim=1)
        return F.cross_entropy(a @ b.T / 0.1, torch.arange(len(a)))

    for loss in (both, of_a_teacher, similar):
        assert not findings(model, loss, forward=pair, steps=6)


def test_a_vector_that_is_compared_with_a_trained_one_is_healthy():
    model = nn.ModuleDict({"one": body(nn.Dropout(0.5)), "other": body()})
    forward = lambda x: (model["one"](x), model["other"](x))  # noqa: E731
    for loss in (F.mse_loss, F.smooth_l1_loss, F.l1_loss):
        assert not findings(
            model, lambda o, _, loss=loss: loss(o[0], o[1]), forward=forward, steps=6
        )


def test_the_teacher_is_told_by_its_zeros():
    model = body(nn.Dropout(0.5))
    teacher = body(nn.Dropout(0.5))

    def loss(o, _y):
        with torch.no_grad():
            target = teacher(torch.randn(len(o), 8))
        return F.mse_loss(o, target)

    assert not findings(model, loss, steps=6)


def test_a_residual_branch_with_a_dropout_is_healthy():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.branch = nn.Linear(8, 4), nn.Linear(4, 4)
            self.dropout = nn.Dropout(0.5)

        def forward(self, x):
            x = self.layer(x)
            return x + self.dropout(self.branch(x))

    assert not findings(Residual(), steps=6)


def test_masks_and_weights_of_the_program_are_healthy():
    always = torch.tensor([2.0, 0.0, 2.0, 2.0])
    weighted = [
        lambda o, y: F.mse_loss(o * always.expand_as(o).clone(), y),  # the same mask each time
        lambda o, y: F.mse_loss(o * (torch.rand_like(o) < 0.5), y),  # does not scale
        lambda o, y: F.mse_loss(o * torch.rand_like(o), y),
        lambda o, y: F.mse_loss(o * y.abs(), y),
        lambda o, y: F.mse_loss(2 * o, y),
    ]
    for loss in weighted:
        model = nn.Sequential(nn.Dropout(0.5), body())
        assert not findings(model, loss, steps=6)
