"""TV502 to TV507, TV604, TV802, TV807, TV808: the course of the loss, the fit, and look-alikes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.optim import SGD, Adam, AdamW, Optimizer  # noqa: E402

from helpers.small_runs import layers  # noqa: E402
from trainvitals.api.schema import Finding, Severity, Stage  # noqa: E402
from trainvitals.capture.capture import Capture  # noqa: E402
from trainvitals.diagnosis.causes import headline_of  # noqa: E402
from trainvitals.diagnosis.examine import Engine  # noqa: E402
from trainvitals.diagnosis.example import Example  # noqa: E402
from trainvitals.diagnosis.history import History  # noqa: E402
from trainvitals.diagnosis.rule import Rule  # noqa: E402
from trainvitals.diagnosis.rules.constant_or_duplicate_input import (  # noqa: E402
    ConstantOrDuplicateInput,
)
from trainvitals.diagnosis.rules.label_noise import LabelNoise  # noqa: E402
from trainvitals.diagnosis.rules.loss_divergence import LossDivergence  # noqa: E402
from trainvitals.diagnosis.rules.loss_oscillation import LossOscillation  # noqa: E402
from trainvitals.diagnosis.rules.loss_plateau import LossPlateau  # noqa: E402
from trainvitals.diagnosis.rules.over_regularised import OverRegularised  # noqa: E402
from trainvitals.diagnosis.rules.overfitting import Overfitting  # noqa: E402
from trainvitals.diagnosis.rules.trivial_target import TrivialTarget  # noqa: E402
from trainvitals.diagnosis.rules.undertrained import Undertrained  # noqa: E402
from trainvitals.wire import Event, EventKind, Place, RunStart, Stat, Stream  # noqa: E402


@dataclass
class Run:
    """A training of a small classifier, or of a regression, on generated data."""

    classes: int = 4
    steps: int = 100
    planned: int | None = None
    optimizer: Callable[[nn.Module], Optimizer] = lambda model: Adam(model.parameters(), 3e-3)
    x: Callable[[Tensor, Tensor], Tensor] = lambda x, _: x
    same_batch: bool = False
    samples: int = 2000
    shuffled: bool = False
    """Each input has the target of another one; training samples only."""
    validate_every: int = 0


def train(run: Run) -> History:
    """Train and return what was recorded."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    history = History()
    if run.planned:
        history.add(RunStart(0.0, total_steps=run.planned))
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 8, generator=g)
    score = 2 * x[:, 1:2] + x[:, 2:3] + 0.3 * torch.randn(3000, 1, generator=g)
    loss_of: nn.Module = nn.MSELoss()
    y = score
    if run.classes:
        edges = score.quantile(torch.linspace(0, 1, run.classes + 1)[1:-1])
        y, loss_of = torch.bucketize(score[:, 0], edges), nn.CrossEntropyLoss()
    x = run.x(x, y)
    x_test, y_test = x[2000:], y[2000:]
    x, y = x[: run.samples], y[: run.samples]
    if run.shuffled:
        y = y[torch.randperm(len(y), generator=g)]
    model = layers(8, 64, 64, run.classes or 1)
    history.facts["parameters"] = float(sum(p.numel() for p in model.parameters()))
    optimizer = run.optimizer(model)
    capture = Capture(model, optimizer, emit=history.add, every=1)
    for step in range(run.steps):
        rows = torch.randint(run.samples, (32,), generator=g)
        if run.same_batch:
            rows = torch.arange(32)
        optimizer.zero_grad()
        output = model(x[rows])
        loss = loss_of(output, y[rows])
        capture.loss(loss, prediction=output, target=y[rows])
        loss.backward()
        optimizer.step()
        if run.validate_every and (step + 1) % run.validate_every == 0:
            with torch.no_grad():
                capture.loss(loss_of(model(x_test), y_test), split="validation")
    capture.detach()
    return history


def findings(rule: Rule, history: History) -> list[Finding]:
    return list(rule.check(history))


def alarms(rule: Rule, history: History) -> list[Finding]:
    return [f for f in rule.check(history) if f.severity is not Severity.INFO]


def leaked(x: Tensor, y: Tensor) -> Tensor:
    """Replace some features by the target."""
    x = x.clone()
    if y.dim() == 1:
        x[:, 4:] = 4.0 * nn.functional.one_hot(y, 4)
    else:
        x[:, 7:] = 4.0 * y
    return x


# TV604


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda model: AdamW(model.parameters(), 3e-3, weight_decay=30.0),
        lambda model: SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1.0),
    ],
    ids=["decoupled", "L2"],
)
def test_a_far_too_large_weight_decay_is_the_headline(optimizer):
    history = train(Run(optimizer=optimizer, steps=120))
    found = headline_of(Engine().examine(history))
    assert found is not None
    assert found.rule == "over_regularised"
    assert found.evidence[2].seen in (30.0, 1.0)


@pytest.mark.parametrize("decay", [0.0, 0.01, 0.1])
def test_a_usual_weight_decay_is_silent(decay):
    run = Run(optimizer=lambda model: AdamW(model.parameters(), 3e-3, weight_decay=decay))
    assert findings(OverRegularised(), train(run)) == []


# TV507


def test_a_plan_of_twenty_steps_ends_with_a_warning_and_only_at_its_end():
    history = train(Run(steps=20, planned=20, optimizer=lambda m: SGD(m.parameters(), 1e-3)))
    assert [f.severity for f in findings(Undertrained(), history)] == [Severity.WARNING]
    history = train(Run(steps=19, planned=20, optimizer=lambda m: SGD(m.parameters(), 1e-3)))
    assert findings(Undertrained(), history) == []


def test_steps_that_hardly_move_the_weights_are_reported_at_the_end_of_a_long_plan():
    history = train(Run(steps=150, planned=150, optimizer=lambda m: Adam(m.parameters(), 1e-6)))
    (found,) = findings(Undertrained(), history)
    assert found.severity is Severity.WARNING
    assert found.evidence[2].seen < found.evidence[2].limit


def test_a_run_without_a_plan_and_one_that_learned_raise_no_alarm():
    assert findings(Undertrained(), train(Run(steps=20))) == []
    assert alarms(Undertrained(), train(Run(steps=150, planned=150))) == []


def test_fine_tuning_from_a_low_loss_is_not_undertrained():
    sick = Undertrained.sick()
    low = Example(20, total_steps=20).scalars(loss=np.full(20, 0.2)).history
    low.facts, low.events = sick.facts, sick.events
    assert findings(Undertrained(), low) == []


def test_a_loss_that_still_falls_at_the_end_is_a_note():
    history = Undertrained.sick()
    falling = Example(400, total_steps=400).scalars(loss=2.3 * np.exp(-np.arange(400) / 350))
    falling.history.events = history.events
    (found,) = findings(Undertrained(), falling.history)
    assert found.severity is Severity.INFO


# TV808


@pytest.mark.parametrize("classes", [0, 4], ids=["regression", "classes"])
def test_a_target_among_the_features_is_reported_and_the_same_data_without_it_is_not(classes):
    fast: Callable[[nn.Module], Optimizer] = lambda m: Adam(m.parameters(), 1e-2)  # noqa: E731
    assert findings(TrivialTarget(), train(Run(classes, optimizer=fast, x=leaked)))
    assert findings(TrivialTarget(), train(Run(classes, optimizer=fast))) == []


def test_one_batch_that_is_learned_by_heart_is_no_trivial_target():
    fast: Callable[[nn.Module], Optimizer] = lambda m: Adam(m.parameters(), 1e-2)  # noqa: E731
    history = train(Run(same_batch=True, optimizer=fast))
    assert history.scalar("loss").values[80] < 0.01
    assert findings(TrivialTarget(), history) == []


# TV503


def lost(level: float, steps: int = 200, at: int = 120) -> History:
    """Return a noisy loss that falls to 0.2 and is at `level` from step `at` on."""
    smooth = np.where(np.arange(steps) < at, 0.2 + 2.1 * np.exp(-np.arange(steps) / 25), level)
    noisy = smooth * np.random.default_rng(0).lognormal(0, 0.2, steps)
    return Example(steps).scalars(loss=noisy).history


def test_a_loss_that_stays_above_a_quarter_of_its_start_has_diverged():
    (found,) = findings(LossDivergence(), lost(2.9))
    assert abs(found.since_step - 120) <= 1
    assert findings(LossDivergence(), lost(0.3)) == []


def test_ten_high_losses_are_not_yet_a_divergence():
    assert findings(LossDivergence(), lost(2.9, steps=130)) == []


def test_a_loss_that_never_fell_has_not_diverged():
    slow = Example(200).scalars(loss=2 + np.arange(200) / 50).history
    assert findings(LossDivergence(), slow) == []


def test_a_loss_that_need_not_fall_does_not_diverge():
    history = lost(2.9)
    history.facts["loss_falls"] = 0.0
    assert findings(LossDivergence(), history) == []


# TV505


def swinging(
    noise: float, *, batch: int = 32, ratio: float = 0.03, fall: float = 0.0, low: float = 0.4
) -> History:
    """Return a loss that fell to `low`, swings by `noise` and falls by the share `fall`."""
    step = np.arange(240)
    level = (low + 1.9 * np.exp(-step / 12)) * (1 - fall * step / 240)
    loss = np.abs(level + noise * np.random.default_rng(1).normal(0, 1, 240))
    place = Place("0.weight", kind="weight", shape=(32, 32), depth=0, module="0")
    example = Example(240).scalars(loss=loss)
    example.stream(Stream.UPDATE, [place], {"0.weight": {Stat.RATIO: ratio}})
    given: dict[str, str | float] = {"target_shape": f"({batch},)"}
    example.history.add(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", given))
    return example.history


def test_noise_that_the_batch_explains_is_no_oscillation():
    assert findings(LossOscillation(), swinging(0.3))
    assert findings(LossOscillation(), swinging(0.3, batch=4)) == []
    # Of 32 samples, one or two are wrong and have a loss of about 2 each.
    assert findings(LossOscillation(), swinging(0.12, low=0.12)) == []


def test_a_loss_that_still_falls_or_small_steps_are_no_oscillation():
    assert findings(LossOscillation(), swinging(0.12, fall=0.8)) == []
    assert findings(LossOscillation(), swinging(0.3, ratio=1e-3)) == []


def test_a_momentum_that_sums_a_thousand_gradients_oscillates():
    run = Run(steps=200, optimizer=lambda m: SGD(m.parameters(), 0.01, momentum=0.999))
    assert findings(LossOscillation(), train(run))
    calm = replace(run, optimizer=lambda m: SGD(m.parameters(), 0.01, momentum=0.9))
    assert findings(LossOscillation(), train(calm)) == []


# TV807 and the third case of TV506


def evaluated(validation: np.ndarray, training: float = 0.1) -> History:
    """Return a ten-class run with an evaluation at every tenth of 300 steps."""
    every = np.full(300, np.nan)
    every[9::10] = validation
    loss = training + (2.3 - training) * np.exp(-np.arange(300) / 60)
    history = Example(300).scalars(loss=loss, loss__validation=every).history
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", {"classes": 10.0}))
    return history


@pytest.mark.parametrize("shuffled", [True, False])
def test_labels_that_do_not_belong_to_the_inputs_are_reported(shuffled):
    history = train(Run(steps=300, samples=64, validate_every=20, shuffled=shuffled))
    assert bool(findings(LabelNoise(), history)) is shuffled


@pytest.mark.parametrize("classes", [4, 0])
@pytest.mark.parametrize("shuffled", [True, False])
def test_targets_that_do_not_depend_on_the_inputs_are_reported_without_a_validation(
    shuffled, classes
):
    history = train(Run(steps=305, shuffled=shuffled, classes=classes))
    found = findings(LabelNoise(), history)
    assert [f.stage for f in found] == [Stage.LOSS] * shuffled
    alone = {f.rule for f in Engine().examine(history) if f.is_alarm and not f.explained_by}
    assert alone == ({"label_noise"} if shuffled else set())


def test_few_samples_of_a_rare_class_and_a_loss_that_falls_prove_nothing():
    found = independent(loss=0.69), independent(loss=0.69, majority=0.9), independent(loss=0.5)
    assert [bool(f) for f in found] == [True, False, False]
    assert independent(loss=0.5, validation=0.8)
    assert not independent(loss=0.5, validation=0.6)
    assert not independent(loss=0.69, t=4.5)
    assert not independent(loss=np.linspace(0.7, 0.66, 100))  # it begins to fall
    assert not independent(loss=0.69, planned=200)
    assert not independent(loss=0.69, planned=None)  # some models fall after a long plateau


def independent(loss, t=1.0, majority=0.5, validation=np.nan, planned=100):
    """Return what label_noise finds in 100 steps of a classifier of two classes."""
    every = np.full(100, np.nan)
    every[24::25] = validation
    course = np.where(np.arange(100) < 10, 0.7, loss)
    history = (
        Example(100, total_steps=planned)
        .scalars(
            loss=course,
            loss__validation=every,
            input_target_dependence=np.where(np.arange(100) == 16, t, np.nan),
            target_majority_share=majority,
        )
        .history
    )
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", {"classes": 2.0}))
    return findings(LabelNoise(), history)


def test_label_noise_explains_the_overfitting_that_follows_from_it():
    history = train(Run(steps=300, samples=64, validate_every=20, shuffled=True))
    found = {f.rule: f for f in Engine().examine(history)}
    assert found["overfitting"].explained_by == "TV807"


def test_a_training_loss_that_leaves_a_level_validation_loss_is_overfitting():
    noisy = 1.0 + 0.08 * np.random.default_rng(0).normal(0, 1, 30)
    noisy[:8] = np.linspace(2.3, 1.0, 8)
    (found,) = findings(Overfitting(), evaluated(noisy))
    assert "have not improved" in found.summary
    assert findings(Overfitting(), evaluated(noisy, training=1.0)) == []
    assert findings(Overfitting(), evaluated(0.3 * noisy)) == []


# TV502


def test_a_plateau_is_a_note_and_the_end_of_a_plan_is_none():
    sick = LossPlateau.sick()
    assert [f.severity for f in findings(LossPlateau(), sick)] == [Severity.INFO]
    sick.total_steps = 420
    assert findings(LossPlateau(), sick) == []


# TV802


def test_one_small_batch_at_every_step_is_reported_and_new_batches_are_not():
    rule = ConstantOrDuplicateInput()
    assert [f.severity for f in findings(rule, train(Run(same_batch=True)))] == [Severity.WARNING]
    assert findings(rule, train(Run())) == []


def test_a_regression_on_one_batch_is_a_note():
    history = train(Run(0, same_batch=True))
    (found,) = findings(ConstantOrDuplicateInput(), history)
    assert found.severity is Severity.INFO
