"""TV501, TV504, TV601, TV602: the right step, and the traps around them."""

import numpy as np
import pytest

from trainvitals.api.schema import Severity
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.learning_rate_too_high import LearningRateTooHigh
from trainvitals.diagnosis.rules.learning_rate_too_low import LearningRateTooLow
from trainvitals.diagnosis.rules.loss_spike import LossSpike
from trainvitals.diagnosis.rules.no_learning import NoLearning
from trainvitals.wire import Event, EventKind, Place, Stat, Stream


def noise(n: int, std: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, std, n)


def findings(rule, **scalars):
    n = max(np.size(values) for values in scalars.values())
    return list(rule.check(Example(n).scalars(**scalars).history))


class TestNoLearning:
    def test_a_flat_loss_is_told_from_the_first_step_on(self):
        [finding] = findings(NoLearning(), loss=2.3 + noise(120, 0.02))
        assert finding.since_step == 0

    @pytest.mark.parametrize("steps", [1, 50, 99])
    def test_a_short_run_is_not_judged(self, steps):
        assert not findings(NoLearning(), loss=2.3 + noise(steps, 0.02))

    @pytest.mark.parametrize(
        "loss",
        [
            np.sin(np.arange(200)) * 0.1,
            np.linspace(0.1, 1, 200),
            np.r_[np.linspace(2, 0.5, 100), np.full(100, 2.0)],
        ],
        ids=["signed", "rising", "was lower once"],
    )
    def test_losses_without_a_level_say_nothing(self, loss):
        assert not findings(NoLearning(), loss=loss)

    def test_a_warm_up_has_not_had_its_chance_yet(self):
        rate = np.linspace(0, 1e-3, 150)
        assert not findings(NoLearning(), loss=2.3 + noise(150, 0.02), learning_rate__0=rate)

    def test_a_run_with_full_accuracy_has_nothing_left_to_learn(self):
        loss = 0.1 + noise(150, 0.001)
        assert not findings(NoLearning(), loss=loss, log__accuracy=np.full(150, 1.0))

    def test_a_low_loss_that_stays_low_had_converged_before_it_was_watched(self):
        assert not findings(NoLearning(), loss=5.6e-8 * (1 + noise(200, 0.02)))

    def never_stepped(self, **columns):
        example = Example(150).scalars(loss=2.3 + noise(150, 0.02), **columns)
        example.history.facts.update(optimizer="Adam", optimizers=1.0)
        return example

    def test_it_is_an_error_if_the_optimizer_never_stepped(self):
        [finding] = NoLearning().check(self.never_stepped().history)
        assert finding.severity is Severity.ERROR
        assert "the optimizer (Adam) never stepped" in finding.summary
        assert "optimizer.step()" in finding.fix

    def test_an_optimizer_with_gradients_or_updates_has_stepped(self):
        [finding] = NoLearning().check(self.never_stepped(gradient_norm=np.ones(150)).history)
        assert finding.severity is Severity.WARNING
        place = Place("0.weight", kind="weight", shape=(8, 8))
        example = self.never_stepped().stream(
            Stream.UPDATE, [place], {place.name: {Stat.RMS: 1e-3}}
        )
        [finding] = NoLearning().check(example.history)
        assert "never stepped" not in finding.summary

    def test_of_a_game_of_several_optimizers_it_is_a_note(self):
        example = Example(150).scalars(loss=0.69 + noise(150, 0.01))
        example.history.facts["optimizers"] = 2.0
        [finding] = NoLearning().check(example.history)
        assert finding.severity is Severity.INFO

    def test_a_fall_that_small_batches_hide_is_no_standstill(self):
        level, falling = 1.1 + noise(120, 0.06), np.linspace(1.12, 1.06, 120) + noise(120, 0.06)
        assert findings(NoLearning(), loss=level)
        assert not findings(NoLearning(), loss=falling)

    @pytest.mark.parametrize(
        ("steps", "planned", "judged"),
        [(140, 200, False), (160, 200, True), (290, None, False), (310, 5000, True)],
    )
    def test_a_recurrent_network_has_more_time_to_begin(self, steps, planned, judged):
        example = Example(steps, total_steps=planned).scalars(loss=1.386 + noise(steps, 0.02))
        weight = Place("rnn.weight_ih_l0", kind="weight", shape=(96, 4), flags=("recurrent",))
        example.stream(Stream.WEIGHT, [weight], {})
        assert bool(list(NoLearning().check(example.history))) is judged


class TestLossSpike:
    def course(self, n: int = 300) -> np.ndarray:
        return (0.4 + 2 * np.exp(-np.arange(n) / 60)) * np.exp(noise(n, 0.1))

    def test_one_that_recovers_is_a_note(self):
        loss = self.course()
        loss[200] = 5
        [finding] = findings(LossSpike(), loss=loss)
        assert (finding.severity, finding.since_step) == (Severity.INFO, 200)

    def test_three_that_recover_are_a_warning(self):
        loss = self.course()
        loss[[120, 200, 280]] = 5
        [finding] = findings(LossSpike(), loss=loss)
        assert finding.severity is Severity.WARNING
        assert [e.seen for e in finding.evidence if e.quantity == "spikes"] == [3]

    def test_one_that_stays_is_a_warning_soon(self):
        loss = self.course(215)
        loss[200:] += 4
        [finding] = findings(LossSpike(), loss=loss)
        assert (finding.severity, finding.since_step) == (Severity.WARNING, 200)

    def test_a_heavy_tailed_loss_is_no_series_of_spikes(self):
        rng = np.random.default_rng(1)
        assert not [
            f
            for f in findings(LossSpike(), loss=0.01 * rng.pareto(1.2, 900) + 0.001)
            if f.severity is not Severity.INFO
        ]

    def test_a_jump_of_a_converged_run_counts_when_it_passes_the_loss_at_the_start(self):
        loss = np.r_[2 * np.exp(-np.arange(300) / 20) + 1e-3, np.full(700, 1e-3)]
        small, large = loss.copy(), loss.copy()
        small[900], large[900] = 1.0, 50.0
        assert not findings(LossSpike(), loss=small)
        [finding] = findings(LossSpike(), loss=large)
        assert finding.since_step == 900

    def test_it_is_silent_on_a_loss_that_need_not_fall(self):
        loss = self.course()
        loss[200:] = 9
        history = Example(300).scalars(loss=loss).history
        assert list(LossSpike().check(history))
        history.facts["loss_falls"] = 0.0
        assert not list(LossSpike().check(history))

    def test_it_names_the_tensor_whose_gradient_grew_most(self):
        loss = self.course()
        loss[200] = 5
        places = [Place(n, kind="weight", shape=(4, 4), depth=i) for i, n in enumerate("ab")]
        jump = np.where(np.arange(300) == 200, 50.0, 1.0)
        example = Example(300).scalars(loss=loss)
        example.stream(Stream.GRADIENT, places, {"a": {Stat.L2: 1.0}, "b": {Stat.L2: jump}})
        [finding] = LossSpike().check(example.history)
        assert "b" in [e.seen for e in finding.evidence]

    def test_the_heavy_tail_of_a_small_batch_near_its_floor_is_no_spike(self):
        rng = np.random.default_rng(0)
        loss = np.r_[2.3 * np.exp(-np.arange(200) / 40), np.zeros(800)] + rng.lognormal(-3, 1, 1000)
        assert not [f for f in findings(LossSpike(), loss=loss) if f.severity is not Severity.INFO]


def steps_of(ratio, loss, *, rate=0.1, weight=1.0, gradient=0.1):
    n = np.size(loss)
    places = [Place(f"{i}.weight", kind="weight", shape=(16, 16), depth=i) for i in range(3)]
    example = Example(n).scalars(loss=loss, learning_rate__0=np.broadcast_to(rate, n))
    for stream, statistic, value in (
        (Stream.WEIGHT, Stat.L2, weight),
        (Stream.GRADIENT, Stat.L2, gradient),
        (Stream.UPDATE, Stat.RATIO, ratio),
    ):
        example.stream(stream, places, {p.name: {statistic: value} for p in places})
    return example.history


class TestLearningRateTooHigh:
    @pytest.mark.parametrize(("later", "reported"), [(0.016, False), (1e-4, True), (0.04, True)])
    def test_large_first_updates_count_later_only_if_the_gradient_vanished(self, later, reported):
        ratio = np.r_[np.full(10, 0.04), np.full(60, later)]
        history = steps_of(ratio, 1.386 + noise(70, 0.01))
        assert bool(list(LearningRateTooHigh().check(history))) is reported

    @pytest.mark.parametrize(("first", "reported"), [(2.5, False), (1.95, True)])
    def test_a_loss_that_fell_at_once_is_not_stuck(self, first, reported):
        # As Adagrad's: its first updates are large. Nothing shows the lowest value of the loss.
        fall = np.r_[first, np.geomspace(2.0, 1.85, 9), np.full(240, 1.85)]
        example = Example(250).scalars(loss=fall + noise(250, 0.02), learning_rate__0=0.05)
        places = [Place("0.weight", kind="weight", shape=(16, 16), depth=0)]
        ratio = np.r_[np.full(10, 0.3), np.full(240, 0.036)]
        example.stream(Stream.UPDATE, places, {"0.weight": {Stat.RATIO: ratio}})
        assert bool(list(LearningRateTooHigh().check(example.history))) is reported

    def check(self, *args, **kwargs):
        return list(LearningRateTooHigh().check(steps_of(*args, **kwargs)))

    def test_it_begins_at_the_large_step_that_raised_the_loss(self):
        ratio = np.r_[np.full(40, 1e-3), np.full(40, 0.8)]
        loss = np.r_[np.linspace(2, 1, 42), np.full(38, 50.0)]
        [finding] = self.check(ratio, loss)
        assert finding.since_step == 40

    def test_a_loss_that_is_nan_after_violent_steps_is_its_fault(self):
        example = Example(6).scalars(
            loss=[2.0, 2.1] + [np.nan] * 4, nonfinite_loss=[0, 0, 1, 1, 1, 1]
        )
        places = [Place("0.weight", kind="weight", shape=(16, 16), depth=0)]
        example.stream(Stream.UPDATE, places, {"0.weight": {Stat.RATIO: 50.0}})
        assert list(LearningRateTooHigh().check(example.history))

    def test_a_nan_long_after_the_loss_has_fallen_again_is_not_its_fault(self):
        loss = np.r_[2.0, 2.0, 2.0, 9.0, np.linspace(2, 0.1, 190), np.full(6, np.nan)]
        example = Example(200).scalars(loss=loss, nonfinite_loss=np.isnan(loss))
        places = [Place("0.weight", kind="weight", shape=(16, 16), depth=0)]
        ratio = np.r_[np.full(4, 0.4), np.full(196, 1e-3)]
        example.stream(Stream.UPDATE, places, {"0.weight": {Stat.RATIO: ratio}})
        assert not list(LearningRateTooHigh().check(example.history))

    def test_a_loss_that_rises_with_small_steps_is_not(self):
        assert not self.check(1e-2, np.linspace(0.1, 5, 200))

    def test_a_loss_that_grows_step_by_step_is_no_explosion(self):
        """Returns of ever longer episodes, under steps that are large from the start."""
        ratio = np.r_[np.full(60, 0.12), np.full(540, 0.01)]
        assert not self.check(ratio, np.linspace(2, 20, 600))

    def test_a_loss_whose_noise_is_as_large_as_itself_tells_nothing_of_the_rate(self):
        rng = np.random.default_rng(3)
        assert not self.check(0.15, rng.lognormal(0, 1.2, 200))

    def test_once_the_loss_is_below_its_start_again_it_is_over(self):
        loss = np.r_[np.full(10, 2.0), np.full(10, 50.0), np.linspace(2, 0.5, 80)]
        assert not self.check(np.r_[np.full(20, 0.5), np.full(80, 1e-3)], loss)

    def test_a_first_loss_that_is_the_largest_is_no_rise(self):
        """A first step from far away swings the loss, which stays below where it began."""
        assert not self.check(np.full(5, 2.0), np.array([28.7, 1.2, 2.0, 5.2, 11.7]))

    def test_the_loss_that_is_named_comes_after_the_large_update(self):
        loss = np.r_[90.0, np.full(40, 2.0), np.full(39, 50.0)]
        [finding] = self.check(np.r_[np.full(40, 1e-3), np.full(40, 0.8)], loss)
        assert "from 2 to 50 within" in finding.summary

    def test_weights_that_start_at_zero_do_not_count(self):
        assert not self.check(5.0, np.full(40, 2.0), weight=1e-6)

    def test_a_rate_that_rose_at_once_is_seen_where_the_update_was_not_captured(self):
        rate = np.r_[np.full(50, 0.1), np.full(50, 10.0)]
        loss = np.r_[np.linspace(2, 1, 51), np.full(49, 90.0)]
        [finding] = self.check(1e-3, loss, rate=rate)
        assert finding.since_step == 50

    RATIOS = np.r_[3.0, 0.7, 0.4, np.full(37, 0.05)]
    LOSS = np.r_[2.8, 4.5, 11.5, 7.7, 6.2, np.geomspace(5, 2.2, 35)]

    def test_first_updates_as_large_as_the_weights_that_multiplied_the_loss_are_named(self):
        [finding] = self.check(self.RATIOS, self.LOSS)
        assert finding.since_step == 0
        assert "rose from 2.8 to 11.5" in finding.summary

    @pytest.mark.parametrize(
        ("ratios", "loss"),
        [
            (RATIOS / 6, LOSS),
            (RATIOS, np.r_[2.8, 2.9, 3.5, 3.0, 2.8, np.geomspace(2.7, 2.2, 35)]),
            (RATIOS, np.r_[LOSS[:5], np.geomspace(5, 0.3, 35)]),
        ],
        ids=["small updates", "no rise", "learned since"],
    )
    def test_first_updates_that_did_no_harm_are_not_reported(self, ratios, loss):
        assert not self.check(ratios, loss)

    @pytest.mark.parametrize(
        ("momentum", "planned", "found"),
        [(0.999, 500, True), (0.999, None, True), (0.999, 5000, False), (0.9, 500, False)],
    )
    def test_a_momentum_that_acts_for_more_steps_than_the_run_has_is_found(
        self, momentum, planned, found
    ):
        history = steps_of(1e-3, np.linspace(2, 1, 200))
        history.facts.update(momentum=momentum, optimizer="SGD")
        history.total_steps = planned
        findings = list(LearningRateTooHigh().check(history))
        assert bool(findings) == found
        assert all("group['momentum'] = 0.9" in finding.fix for finding in findings)


class TestLearningRateTooLow:
    def check(self, *args, **kwargs):
        return list(LearningRateTooLow().check(steps_of(*args, **kwargs)))

    def test_steps_of_a_millionth_are_too_small_whatever_the_loss(self):
        assert self.check(1e-7, np.linspace(2, 1.9, 60))

    def test_steps_of_a_hundred_thousandth_are_with_a_flat_loss_only(self):
        assert self.check(1e-5, 2.3 + noise(150, 0.01))
        assert not self.check(1e-5, np.linspace(2, 1, 150))

    def test_without_a_gradient_the_small_step_is_not_the_rates_fault(self):
        assert not self.check(1e-9, np.full(60, 2.0), gradient=1e-6)

    def test_a_warm_up_in_the_second_half_of_the_plan_is_no_excuse(self):
        rate = np.linspace(1e-9, 1e-6, 100)
        for planned, found in ((100, True), (1000, False), (None, False)):
            history = steps_of(rate * 1e-2, np.full(100, 2.3), rate=rate)
            history.total_steps = planned
            assert bool(list(LearningRateTooLow().check(history))) is found

    def test_weights_that_stand_still_need_no_known_level_of_the_loss(self):
        loss = np.linspace(2, 1.95, 250) + noise(250, 0.02)
        assert self.check(4e-5, loss)
        assert not self.check(4e-4, loss)
        assert not self.check(4e-5, np.linspace(2, 1, 250))

    @pytest.mark.parametrize(
        ("loss", "found"),
        [
            (np.linspace(2.5, 2.28, 200), True),
            (2.3 + 0.2 * np.exp(-np.arange(200) / 15), False),
        ],
        ids=["it falls slowly", "it fell to the frequencies early"],
    )
    def test_labels_at_random_are_not_blamed_on_the_rate(self, loss, found):
        history = steps_of(3e-4, loss + noise(200, 0.01))
        history.total_steps = 200
        history.add(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", {"classes": 10.0}))
        assert bool(list(LearningRateTooLow().check(history))) is found

    @pytest.mark.parametrize(
        ("epsilon", "found"), [(1.0, True), (1e-8, False), ("1e-30, 0.001", False)]
    )
    def test_an_eps_that_is_far_above_the_gradient_is_named(self, epsilon, found):
        history = steps_of(4e-4, 2.3 + noise(150, 0.01), gradient=0.01)
        history.add(Event(0, 0.0, EventKind.OPTIMIZER, "Adam", {"eps/0": epsilon}))
        findings = list(LearningRateTooLow().check(history))
        assert bool(findings) is found
        assert all("['eps'] = 1e-8" in finding.fix for finding in findings)

    def test_the_end_of_a_schedule_is_left_out(self):
        rate = np.r_[np.full(50, 0.1), np.geomspace(0.1, 1e-7, 50)]
        assert not self.check(rate * 1e-3, np.linspace(2, 1, 100), rate=rate)


class TestSignedLossSpike:
    """Losses that can be negative, such as those of policy gradients."""

    def test_a_loss_that_was_usual_at_the_start_of_the_training_is_no_spike(self):
        # REINFORCE in a corridor: the converged policy explores once after 170 steps.
        loss = np.r_[noise(128, 0.4), 0.001 * noise(200, 1.0)]
        loss[300], loss[301:] = 0.35, 0.05 + loss[301:]
        assert not findings(LossSpike(), loss=loss)

    def test_a_jump_above_all_noise_is_found(self):
        # A negative log-likelihood that falls below zero.
        loss = np.linspace(5, -3, 300) + noise(300, 0.1)
        loss[220:] += 8
        [finding] = findings(LossSpike(), loss=loss)
        assert (finding.severity, finding.since_step) == (Severity.WARNING, 220)
