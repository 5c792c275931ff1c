"""TV506, TV609, TV801, TV803: data, targets and fit, on real trainings and on their look-alikes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from helpers.small_runs import layers  # noqa: E402
from trainvitals.api.schema import Severity  # noqa: E402
from trainvitals.capture.capture import Capture  # noqa: E402
from trainvitals.diagnosis.example import Example  # noqa: E402
from trainvitals.diagnosis.history import History  # noqa: E402
from trainvitals.diagnosis.rule import Rule  # noqa: E402
from trainvitals.diagnosis.rules.overfitting import Overfitting  # noqa: E402
from trainvitals.diagnosis.rules.schedule_ended_early import ScheduleEndedEarly  # noqa: E402
from trainvitals.diagnosis.rules.target_not_scaled import TargetNotScaled  # noqa: E402
from trainvitals.diagnosis.rules.unnormalised_input import UnnormalisedInput  # noqa: E402
from trainvitals.wire import Event, EventKind, Place, RunStart, Stat, Stream  # noqa: E402


@dataclass
class Run:
    """A training on generated data: y = a smooth function of 8 inputs."""

    model: nn.Module = field(default_factory=lambda: layers(8, 32, 32, 1))
    steps: int = 40
    samples: int = 512
    batch: int = 32
    rate: float = 3e-3
    x: Callable[[Tensor], Tensor] = lambda x: x
    y: Callable[[Tensor], Tensor] = lambda y: y
    noise: float = 0.0
    schedule: Callable[[int], float] | None = None
    validate_every: int = 0
    planned: int | None = None
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.mse_loss


def train(run: Run) -> History:
    """Train and return what was recorded."""
    torch.set_num_threads(1)
    history = History()
    if run.planned:
        history.add(RunStart(0.0, total_steps=run.planned))
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2 * run.samples, 8, generator=g)
    y = (x[:, :1] * x[:, 1:2] + x[:, 2:3]).tanh()
    y = run.y(y + run.noise * torch.randn(y.shape, generator=g))
    x = run.x(x)
    optimizer = torch.optim.Adam(run.model.parameters(), run.rate)
    capture = Capture(run.model, optimizer, emit=history.add, every=1)
    for step in range(run.steps):
        if run.schedule:
            optimizer.param_groups[0]["lr"] = run.rate * run.schedule(step)
        at = torch.randint(run.samples, (run.batch,), generator=g)
        optimizer.zero_grad()
        loss = run.loss(run.model(x[at]), y[at])
        capture.loss(loss)
        loss.backward()
        optimizer.step()
        if run.validate_every and (step + 1) % run.validate_every == 0:
            with torch.no_grad():
                test = run.loss(run.model(x[run.samples :]), y[run.samples :])
            capture.loss(test, split="validation")
    capture.detach()
    return history


@pytest.fixture(autouse=True)
def _the_same_weights_every_time():
    torch.manual_seed(0)


def findings(rule: Rule, history: History):
    return list(rule.check(history))


class TestOverfitting:
    def validated(self, **changes) -> History:
        given = {"steps": 400, "validate_every": 10, "rate": 1e-2, "noise": 0.5} | changes
        return train(Run(model=layers(8, 64, 64, 1), **given))

    def test_a_network_that_memorises_few_noisy_samples_is_reported_from_the_minimum_on(self):
        [found] = findings(Overfitting(), self.validated(samples=40))
        assert 0 < found.since_step < 150
        assert "validation" in found.summary

    def test_the_same_network_on_enough_samples_is_not(self):
        assert not findings(Overfitting(), self.validated(samples=4000))

    @pytest.mark.parametrize("sigma", [0.02, 0.1, 0.3])
    def test_noise_of_a_level_validation_loss_is_rarely_taken_for_a_rise(self, sigma):
        rng = np.random.default_rng(0)
        flagged = sum(
            bool(self.speaks(0.8 * np.exp(sigma * rng.normal(size=30)))) for _ in range(60)
        )
        assert flagged <= 1

    def test_a_rise_is_seen_through_noise(self):
        rng = np.random.default_rng(0)
        rise = 0.6 + 0.004 * np.abs(np.arange(9, 300, 10) - 100)
        assert all(self.speaks(rise * np.exp(0.05 * rng.normal(size=30))) for _ in range(30))

    def test_a_rise_of_both_losses_is_another_fault(self):
        rise = 0.6 + 0.004 * np.abs(np.arange(9, 300, 10) - 100)
        assert not self.speaks(rise, training=np.r_[np.full(100, 1.0), np.full(200, 2.0)])

    def test_the_minimum_of_the_newest_evaluation_is_no_rise(self):
        assert not self.speaks(np.linspace(2, 0.5, 30))

    def test_a_loss_of_the_training_split_is_not_compared(self):
        rise = 0.6 + 0.004 * np.abs(np.arange(9, 300, 10) - 100)
        assert not self.speaks(rise, name="loss__training")

    def speaks(self, validation, training=None, name="loss__validation"):
        every = np.full(300, np.nan)
        every[9::10] = validation
        if training is None:
            training = 2.3 * np.exp(-np.arange(300) / 80)
        columns = {"loss": training, name: every}
        return findings(Overfitting(), Example(300).scalars(**columns).history)


class TestScheduleEndedEarly:
    def test_a_cosine_over_a_tenth_of_the_steps_is_reported_ten_steps_after_its_end(self):
        def cosine(step: int) -> float:
            return 0.5 + 0.5 * float(np.cos(np.pi * min(step, 20) / 20))

        history = train(Run(steps=32, planned=200, schedule=cosine))
        [found] = findings(ScheduleEndedEarly(), history)
        assert found.since_step == 20
        assert "200 planned steps" in found.summary

    @pytest.mark.parametrize(
        "schedule",
        [
            lambda step: 0.5 + 0.5 * float(np.cos(np.pi * step / 60)),
            lambda step: 0.5 + 0.5 * float(np.cos(np.pi * (step % 15) / 15)),
            lambda step: 0.1 ** (step // 20),
            lambda step: min(1.0, 1e-4 + step / 30),
            lambda _: 1.0,
        ],
        ids=["cosine to the end", "warm restarts", "two decays", "warm-up", "constant"],
    )
    def test_schedules_that_are_as_long_as_the_run_are_not(self, schedule):
        assert not findings(
            ScheduleEndedEarly(), train(Run(steps=60, planned=60, schedule=schedule))
        )

    def course(self, steps, ended, loss, total=None):
        rate = np.where(np.arange(steps) < ended, 1e-3, 1e-8)
        example = Example(steps, total_steps=total)
        return findings(
            ScheduleEndedEarly(), example.scalars(loss=loss, learning_rate__0=rate).history
        )

    def test_a_run_that_had_levelled_off_before_is_left_alone(self):
        level = np.r_[np.linspace(2.3, 1.0, 50), np.full(850, 1.0)]
        assert not self.course(900, 700, level, total=1000)

    def test_a_loss_that_still_fell_when_the_rate_ended_is_reported_up_to_its_share(self):
        loss = 2.3 * np.exp(-np.minimum(np.arange(900), 700) / 400)
        assert self.course(900, 700, loss, total=1000)
        assert not self.course(950, 850, np.r_[loss, loss[:50]], total=1000)

    def test_without_a_plan_half_of_the_steps_must_have_had_no_rate(self):
        loss = 2.3 * np.exp(-np.minimum(np.arange(400), 150) / 100)
        assert self.course(400, 150, loss)
        assert not self.course(240, 150, loss[:240])

    def test_a_rate_that_was_never_higher_is_no_schedule(self):
        assert not self.course(400, 0, np.full(400, 2.3), total=1000)


class TestUnnormalisedInput:
    def check(self, **changes):
        return findings(UnnormalisedInput(), train(Run(steps=4, **changes)))

    @pytest.mark.parametrize(
        "change",
        [lambda x: 255 * x, lambda x: x + 100, lambda x: x / 1000],
        ids=["pixels", "offset", "scaled twice"],
    )
    def test_inputs_that_are_far_from_one_are_reported_at_the_first_layer(self, change):
        [found] = self.check(x=change)
        assert (found.where, found.since_step) == ("0", 0)

    @pytest.mark.parametrize(
        "change",
        [
            lambda x: x,
            lambda x: 4 * x + 2,
            lambda x: 0.1 * x,
            lambda x: 3 * x + 12,
            lambda x: nn.functional.one_hot(x[:, 0].abs().long() % 8, 8).float(),
            torch.zeros_like,
        ],
        ids=["standard", "a few units", "small", "counts", "one-hot", "constant: another fault"],
    )
    def test_inputs_of_usual_scale_are_not(self, change):
        assert not self.check(x=change)

    def test_the_scale_is_the_rms_of_the_inputs(self):
        [found] = self.check(x=lambda x: 50 * x)
        assert found.evidence[0].seen == pytest.approx(50, rel=0.3)

    @pytest.mark.parametrize("norm", [nn.BatchNorm1d(8), nn.LayerNorm(8)])
    def test_a_normalisation_before_the_first_layer_is_its_input(self, norm):
        assert not self.check(model=nn.Sequential(norm, layers(8, 32, 1)), x=lambda x: 255 * x)

    def test_a_normalisation_after_the_first_layer_removes_the_scale(self):
        model = layers(8, 32, 32, 1, norm=nn.BatchNorm1d)
        assert not self.check(model=model, x=lambda x: 255 * x)

    def test_the_inputs_of_a_recurrent_layer_are_measured_themselves(self):
        class Recurrent(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.rnn, self.head = nn.GRU(2, 16, batch_first=True), nn.Linear(16, 1)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.rnn(x.view(len(x), 4, 2))[0][:, -1])

        [found] = self.check(model=Recurrent(), x=lambda x: x + 100)
        assert found.where == "rnn"
        assert not self.check(model=Recurrent())

    def test_between_five_and_ten_it_waits_for_a_loss_that_does_not_fall(self):
        def run(loss):
            history = UnnormalisedInput.sick()
            scaled = Example(80).scalars(loss=loss).history
            for stream in (Stream.WEIGHT, Stream.GRADIENT, Stream.ACTIVATION):
                history._streams[stream].values *= 0.07 if stream is not Stream.WEIGHT else 1
                scaled._streams[stream] = history._streams[stream]
            bias = scaled._streams[Stream.GRADIENT].values[:, 1]
            bias /= 0.07  # only the inputs are scaled
            return findings(UnnormalisedInput(), scaled)

        assert run(np.full(80, 2.3))
        assert not run(2.3 * np.exp(-np.arange(80) / 30))

    def test_a_run_that_is_watched_from_its_middle_is_not_judged(self):
        weight = Place("0.weight", kind="weight", shape=(8, 8), module="0", module_kind="Linear")
        columns = {"0.weight": {Stat.L2: 1.0}}
        example = Example([500, 501, 502]).stream(Stream.WEIGHT, [weight], columns)
        place = Place("0", kind="Linear", depth=0)
        example.stream(Stream.ACTIVATION, [place], {"0": {Stat.SAMPLE_STD: 100.0}})
        assert not findings(UnnormalisedInput(), example.history)


class TestTargetNotScaled:
    def check(self, **changes):
        return findings(TargetNotScaled(), train(Run(**({"steps": 6} | changes))))

    @pytest.mark.parametrize(
        "change",
        [lambda y: 1000 * y + 5000, lambda y: y + 100, lambda y: 50 * y],
        ids=["prices", "offset", "scale"],
    )
    def test_targets_far_from_the_first_predictions_are_reported_at_once(self, change):
        [found] = self.check(y=change)
        assert found.since_step == 0

    @pytest.mark.parametrize(
        ("factor", "steps", "rate", "severity"),
        [
            (1000, 6, 3e-3, Severity.WARNING),
            (50, 6, 3e-3, Severity.INFO),
            (50, 140, 3e-4, Severity.WARNING),
            (50, 140, 0.1, Severity.INFO),
        ],
        ids=["far at once", "near at first", "near and not reached", "near and reached"],
    )
    def test_targets_at_most_ten_times_beyond_the_limit_are_information_until_they_harm(
        self, factor, steps, rate, severity
    ):
        [found] = self.check(y=lambda y: factor * y, steps=steps, rate=rate)
        assert found.severity == severity

    @pytest.mark.parametrize("change", [lambda y: y, lambda y: 3 * y + 1, lambda y: 0.1 * y])
    def test_targets_of_usual_scale_are_not(self, change):
        assert not self.check(y=change)

    def test_a_model_that_starts_at_the_mean_of_the_targets_is_fine(self):
        model = layers(8, 32, 1)
        with torch.no_grad():
            model[-1].bias.fill_(5000.0)
        assert not self.check(model=model, y=lambda y: y + 5000)
        assert not self.check(model=model)  # its bias is far, not the targets

    def test_tiny_targets_are_reported_while_the_output_is_noisier_than_they_are(self):
        small = {"y": lambda y: 1e-4 * y, "steps": 110}
        assert self.check(rate=3e-3, **small)
        assert not self.check(rate=3e-3, **(small | {"steps": 20}))

    @pytest.mark.parametrize("steps", [4, 60])
    def test_the_deviation_that_a_few_targets_have_is_not_that_of_all(self, steps):
        def two_percent_outliers(y: Tensor) -> Tensor:
            return torch.where(torch.arange(len(y))[:, None] % 50 == 0, 100 * y, y)

        assert not self.check(
            y=two_percent_outliers, steps=steps, batch=64, loss=nn.functional.huber_loss
        )

    @pytest.mark.parametrize(("loss", "severity"), [(2e5, "warning"), (2e3, "info")])
    def test_a_scale_that_the_model_has_fitted_is_information(self, loss, severity):
        example = Example(20).scalars(
            loss=loss, target_mean=5000, target_std=1000, prediction_mean=0, prediction_std=0.1
        )
        kind = Event(0, 0.0, EventKind.LOSS_KIND, "MSELoss", {"target_shape": "(32, 1)"})
        example.history.add(kind)
        [finding] = findings(TargetNotScaled(), example.history)
        assert finding.severity == severity

    def test_other_losses_are_left_alone(self):
        history = TargetNotScaled.sick()
        history.events.append(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", {}))
        assert not findings(TargetNotScaled(), history)
