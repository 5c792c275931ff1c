"""TV101, TV102, TV201, TV202: the right place and step, and the traps around them."""

import numpy as np
import pytest

from trainvitals.api.schema import Severity
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.dead_relu import DeadRelu
from trainvitals.diagnosis.rules.exploding_gradient import ExplodingGradient
from trainvitals.diagnosis.rules.saturated_activation import SaturatedActivation
from trainvitals.diagnosis.rules.vanishing_gradient import VanishingGradient
from trainvitals.wire import Place, Stat, Stream


def weights(n: int, **changes: object) -> list[Place]:
    return [
        Place(f"{i}.weight", **{"kind": "weight", "shape": (16, 16), "depth": i, **changes})
        for i in range(n)
    ]


class TestVanishingGradient:
    def gradients(self, sizes, *, loss=1.0, update=1e-9, steps=100, **changes):
        places = weights(len(sizes), **changes)
        gradients = {p.name: {Stat.L2: s} for p, s in zip(places, sizes, strict=True)}
        return (
            Example(steps)
            .scalars(loss=np.broadcast_to(loss, steps))
            .stream(Stream.GRADIENT, places, gradients)
            .stream(Stream.UPDATE, places, {p.name: {Stat.RATIO: update} for p in places})
            .history
        )

    def test_it_names_the_layer_with_the_largest_drop(self):
        [finding] = VanishingGradient().check(self.gradients([1e-9, 1e-8, 1e-2, 1e-1, 1.0]))
        assert (finding.where, finding.since_step) == ("1.weight", 0)

    def test_a_gradient_that_is_cut_off_is_not_one_that_fades(self):
        assert not list(VanishingGradient().check(self.gradients([0.0, 0.0, 0.5, 0.8, 1.0])))

    def test_one_that_fades_until_float32_ends_is(self):
        sizes = [0.0, 0.0, 1e-30, 1e-20, 1e-10, 1.0]
        assert list(VanishingGradient().check(self.gradients(sizes)))

    def test_adam_that_learns_all_the_same_is_left_alone(self):
        falling = np.linspace(2, 0.5, 100)
        history = self.gradients([1e-9, 1e-5, 1e-2, 1.0], loss=falling, update=1e-3)
        assert not list(VanishingGradient().check(history))

    def test_frozen_layers_do_not_count(self):
        history = self.gradients([1e-9, 1e-5, 1e-2, 1.0], trainable=False)
        assert not list(VanishingGradient().check(history))


class TestExplodingGradient:
    def norms(self, values):
        history = Example(len(values)).scalars(gradient_norm=values).history
        return list(ExplodingGradient().check(history))

    def test_it_begins_at_the_first_step_of_the_run_above_the_limit(self):
        assert self.norms([1.0] * 70 + [500.0] * 3)[0].since_step == 70

    @pytest.mark.parametrize("spike", [[500.0], [500.0, 500.0]])
    def test_one_or_two_steps_are_no_explosion(self, spike):
        assert not self.norms([1.0] * 70 + spike)

    def test_a_converged_run_that_wakes_up_is_measured_by_its_start(self):
        assert not self.norms([1.0] * 16 + [1e-5] * 100 + [1e-2] * 3)

    @pytest.mark.parametrize(("now", "found"), [(2000.0, True), (3.0, False)])
    def test_a_signal_that_still_explodes_counts_although_the_loss_falls(self, now, found):
        n = 60
        growth = np.r_[np.full(10, 2000.0), np.full(n - 10, now)]
        modules = [Place(str(i), kind="Linear", depth=i) for i in range(3)]
        weights = [
            Place(f"{i}.weight", kind="weight", shape=(8, 8), depth=i, module=str(i))
            for i in range(3)
        ]
        example = Example(n).scalars(loss=np.linspace(1e6, 4e5, n))
        example.stream(
            Stream.ACTIVATION,
            modules,
            {str(i): {Stat.SAMPLE_STD: s} for i, s in enumerate((1.0, 40.0, growth))},
        )
        example.stream(Stream.WEIGHT, weights, {p.name: {Stat.L2: 1.0} for p in weights})
        example.stream(Stream.GRADIENT, weights, {p.name: {Stat.L2: 9.0} for p in weights})
        assert bool(list(ExplodingGradient().check(example.history))) is found


class TestDeadRelu:
    def layer(self, inactive, dead, *, units=64, loss=2.0):
        n = len(inactive)
        weight = Place("0.weight", kind="weight", shape=(units, 8), depth=0)
        places = [Place("1", kind="ReLU", depth=1)]
        columns = {"1": {Stat.INACTIVE_SHARE: inactive, Stat.DEAD_SHARE: dead}}
        example = Example(n).scalars(loss=np.broadcast_to(loss, n))
        example.stream(Stream.WEIGHT, [weight], {}).stream(Stream.ACTIVATION, places, columns)
        return list(DeadRelu().check(example.history))

    def test_it_names_the_layer_and_the_step_it_died_at(self):
        [finding] = self.layer([0.1] * 10 + [1.0] * 30, [0.05] * 30 + [1.0] * 10)
        assert (finding.where, finding.since_step) == ("1", 10)
        assert finding.severity is Severity.ERROR

    def test_nine_dead_units_of_ten_are_ninety_percent(self):
        [finding] = self.layer([0.9] * 40, [np.nan] * 19 + [0.9] * 21, units=10)
        assert (finding.severity, finding.since_step) == (Severity.ERROR, 0)

    def test_units_dead_at_the_first_steps_are_not_blamed_on_the_learning_rate(self):
        [born] = self.layer([1.0] * 40, [np.nan] * 19 + [1.0] * 21)
        [killed] = self.layer([0.1] * 10 + [1.0] * 30, [0.05] * 30 + [1.0] * 10)
        assert "LeakyReLU" in born.fix  # no bias is known to be negative
        assert "'lr'" not in born.fix
        assert "'lr'" in killed.fix
        assert "learning rate" not in born.advice.lower()
        assert "learning rate" in killed.advice.lower()

    def test_half_dead_and_rising_is_a_warning(self):
        [finding] = self.layer([0.6] * 120, [np.nan] * 19 + list(np.linspace(0.2, 0.6, 101)))
        assert finding.severity is Severity.WARNING

    @pytest.mark.parametrize(
        ("steps", "loss_end"), [(99, 2.0), (120, 1.0)], ids=["the first steps", "it learns"]
    )
    def test_half_dead_and_rising_is_silence_before_it_can_do_harm_and_where_it_does_none(
        self, steps, loss_end
    ):
        dead = [np.nan] * 19 + list(np.linspace(0.2, 0.6, steps - 19))
        assert not self.layer([0.6] * steps, dead, loss=np.linspace(2, loss_end, steps))

    @pytest.mark.parametrize(
        ("units", "share", "reported"), [(16, 0.5, 0), (16, 0.7, 1), (48, 0.52, 1)]
    )
    def test_half_of_a_narrow_layer_is_dead_by_chance(self, units, share, reported):
        dead = [np.nan] * 19 + list(np.linspace(0.2, share, 101))
        assert len(self.layer([0.6] * 120, dead, units=units)) == reported

    def test_half_dead_from_the_start_and_not_rising_is_silence(self):
        assert not self.layer([0.6] * 40, [np.nan] * 19 + [0.55] * 21)

    @pytest.mark.parametrize("units", [1, 7])
    def test_layers_of_few_units_are_left_out(self, units):
        assert not self.layer([1.0] * 40, [1.0] * 40, units=units)

    def test_it_forgets_a_layer_that_recovered(self):
        assert not self.layer([1.0] * 40 + [0.1], [1.0] * 40 + [0.1])

    def test_a_sparse_layer_of_a_run_that_learns_is_no_error(self):
        [finding] = self.layer([0.95] * 40, [0.95] * 40, loss=np.linspace(2, 0.2, 40))
        assert finding.severity is Severity.WARNING


class TestSaturatedActivation:
    def share(self, share, steps=40, *, loss=1.0, **changes):
        place = Place("1", **{"kind": "Tanh", "depth": 1, "nonlinearity": "tanh", **changes})
        places = [place, Place("2", kind="Linear", depth=2)]
        example = Example(steps).scalars(loss=np.broadcast_to(loss, steps))
        example.stream(Stream.ACTIVATION, places, {"1": {Stat.SATURATED_SHARE: share}})
        return list(SaturatedActivation().check(example.history))

    def test_it_names_the_layer_and_when_it_began(self):
        [finding] = self.share([0.1] * 15 + [0.9] * 25)
        assert (finding.where, finding.since_step) == ("1", 15)

    @pytest.mark.parametrize(
        "changes", [{"kind": "LSTM"}, {"kind": "GRU"}, {"flags": ("output",)}, {"depth": 3}]
    )
    def test_gates_and_outputs_saturate_by_design(self, changes):
        assert not self.share(0.9, **changes)

    @pytest.mark.parametrize(("reached", "reported"), [(0.3, True), (0.9, False)])
    def test_a_policy_whose_reward_has_risen_clearly_may_saturate(self, reached, reported):
        places = [
            Place("1", kind="Tanh", depth=1, nonlinearity="tanh"),
            Place("2", kind="Linear", depth=2),
        ]
        example = Example(60).scalars(
            loss=np.zeros(60), log__reward=np.linspace(0.2, reached, 60), log__reward_std=0.5
        )
        example.stream(Stream.ACTIVATION, places, {"1": {Stat.SATURATED_SHARE: 0.9}})
        assert bool(list(SaturatedActivation().check(example.history))) == reported

    def test_a_run_that_has_converged_may_saturate(self):
        assert not self.share(0.9, loss=np.r_[np.full(10, 2.0), np.full(30, 0.01)])
