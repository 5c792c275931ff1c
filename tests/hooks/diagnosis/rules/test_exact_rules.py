"""TV103, TV104, TV107, TV401 to TV408, TV605, TV802: what looks like the fault and is none."""

from types import MappingProxyType

import numpy as np
import pytest

from trainvitals.api.schema import Severity
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.constant_or_duplicate_input import ConstantOrDuplicateInput
from trainvitals.diagnosis.rules.loss_task_mismatch import LossTaskMismatch
from trainvitals.diagnosis.rules.loss_term_inactive import LossTermInactive
from trainvitals.diagnosis.rules.missing_zero_grad import MissingZeroGrad
from trainvitals.diagnosis.rules.no_gradient import NoGradient
from trainvitals.diagnosis.rules.no_signal import NoSignal
from trainvitals.diagnosis.rules.no_supervision import NoSupervision
from trainvitals.diagnosis.rules.output_range_mismatch import OutputRangeMismatch
from trainvitals.diagnosis.rules.softmax_before_cross_entropy import SoftmaxBeforeCrossEntropy
from trainvitals.diagnosis.rules.wrong_train_eval_mode import WrongTrainEvalMode
from trainvitals.wire import Event, EventKind, Place, Stat, Stream


def kind(text="CrossEntropyLoss", step=0, **attributes):
    return Event(step, 0.0, EventKind.LOSS_KIND, text, attributes)


def run(rule, n, *events, **scalars):
    """Return the findings of a rule on `n` steps with these scalars and loss kinds."""
    columns = {name: np.broadcast_to(np.asarray(c, float), n) for name, c in scalars.items()}
    history = Example(n).scalars(**columns).history
    for event in events:
        history.add(event)
    return list(rule.check(history))


class TestMissingZeroGrad:
    norm = np.linspace(1, 2, 10)

    def before(self, *steps):
        left = np.r_[0.0, self.norm[:-1]]
        return np.where(np.isin(np.arange(10), steps), left, 0.0)

    def test_it_speaks_at_the_second_step_with_old_gradients(self):
        before = self.before(1, 2)[:3]
        [found] = run(MissingZeroGrad(), 3, gradient_norm=self.norm[:3],
                      gradient_norm_before_backward=before)  # fmt: skip
        assert (found.since_step, found.severity) == (1, Severity.ERROR)

    def test_zero_grad_in_every_second_step_is_missing_in_the_others(self):
        before = self.before(1, 3, 5, 7, 9)
        assert run(MissingZeroGrad(), 10, gradient_norm=self.norm,
                   gradient_norm_before_backward=before)  # fmt: skip

    def test_gradients_that_stay_scaled_are_compared_with_their_scale(self):
        scaled = 1024 * self.before(*range(10))
        assert run(MissingZeroGrad(), 10, gradient_norm=self.norm, loss_scale=1024.0,
                   gradient_norm_before_backward=scaled)  # fmt: skip

    @pytest.mark.parametrize("share", [0.0, 0.7, 3.0], ids=["cleared", "another loss", "larger"])
    def test_cleared_gradients_and_those_of_another_loss_are_left_alone(self, share):
        before = share * self.before(*range(10))
        assert not run(MissingZeroGrad(), 10, gradient_norm=self.norm,
                       gradient_norm_before_backward=before)  # fmt: skip


class TestNoGradient:
    def check(self, *, steps=6, shape=(8, 8), ran=True, optimizers=1.0, everywhere=False,
              skipped=0.0, names="ab", depth=0, stepped=True):  # fmt: skip
        first, second = names
        places = [
            Place(f"{first}.weight", kind="weight", shape=shape, depth=depth, module="a"),
            Place(f"{second}.weight", kind="weight", shape=(8, 8), depth=1, module="b"),
        ]
        trained = {} if everywhere else {places[1].name: {Stat.L2: 0.1, Stat.NONFINITE: 0.0}}
        rates = (0.0, 0.0 if everywhere else 1e-3)
        moved = {p.name: {Stat.RMS: rate} for p, rate in zip(places, rates, strict=True)}
        if not stepped:
            del moved[places[0].name]
        outputs = [Place(m, kind="Linear", module=m, depth=i) for i, m in enumerate("ab")]
        measured = {m: {Stat.MEAN: 0.1} for m in ("ab" if ran else "b")}
        example = Example(steps).scalars(loss=[2.0] * steps, skipped_step=[skipped] * steps)
        example.stream(Stream.GRADIENT, places, trained).stream(Stream.UPDATE, places, moved)
        history = example.stream(Stream.ACTIVATION, outputs, measured).history
        history.facts["optimizers"] = optimizers
        return list(NoGradient().check(history))

    def test_a_part_that_ran_without_a_gradient_is_an_error_at_the_third_step(self):
        [found] = self.check(steps=3)
        assert (found.where, found.severity) == ("a", Severity.ERROR)
        assert not self.check(steps=2)

    @pytest.mark.parametrize(("depth", "severity"), [(2, Severity.INFO), (0, Severity.WARNING)])
    def test_a_small_part_is_a_note_unless_it_is_the_start_of_the_model(self, depth, severity):
        [found] = self.check(shape=(1, 2), depth=depth)
        assert found.severity is severity

    def test_a_part_that_did_not_run_gets_twenty_steps(self):
        assert not self.check(ran=False, steps=19)
        [found] = self.check(ran=False, steps=20)
        assert found.severity is Severity.WARNING

    def test_an_idle_expert_beside_others_is_a_note(self):
        [found] = self.check(ran=False, steps=30, names=("experts.0", "experts.1"))
        assert found.severity is Severity.INFO

    def blocks(self, *without):
        """Three blocks of two layers; those named had no gradient."""
        names = [f"blocks.{i}.{part}" for i in range(3) for part in ("skip", "residual")]
        places = [
            Place(f"{n}.weight", kind="weight", shape=(8, 8), depth=i, module=n)
            for i, n in enumerate(names)
        ]
        outputs = [Place(n, kind="Linear", module=n, depth=i) for i, n in enumerate(names)]
        trained = [p for p in places if p.module not in without]
        sizes = {p.name: {Stat.L2: 0.1, Stat.NONFINITE: 0.0} for p in trained}
        moved = {p.name: {Stat.RMS: 1e-3 * (p in trained)} for p in places}
        example = Example(6).scalars(loss=[2.0] * 6)
        example.stream(Stream.GRADIENT, places, sizes).stream(Stream.UPDATE, places, moved)
        measured = {n: {Stat.MEAN: 0.1} for n in names}
        [found] = NoGradient().check(example.stream(Stream.ACTIVATION, outputs, measured).history)
        return found.severity

    def test_a_part_of_the_last_block_that_goes_nowhere_is_a_note(self):
        assert self.blocks("blocks.2.residual") is Severity.INFO
        assert self.blocks("blocks.1.residual") is Severity.WARNING
        assert self.blocks("blocks.2.residual", "blocks.2.skip") is Severity.ERROR

    @pytest.mark.parametrize(
        ("steps", "gradient", "severity"),
        [(19, None, Severity.INFO), (20, None, Severity.ERROR), (20, 0.1, Severity.INFO)],
        ids=["not known yet", "cut off", "an expert beside them"],
    )
    def test_a_block_under_no_grad_cuts_off_the_embedding_before_it(
        self, steps, gradient, severity
    ):
        depths = {"embedding": 0, "block": -1, "other": -1, "head": 1}
        places = [
            Place(f"{n}.weight", kind="embedding" if n == "embedding" else "weight",
                  shape=(8, 2) if n == "embedding" else (16, 16), depth=d, module=n)
            for n, d in depths.items()
        ]  # fmt: skip
        trained = {"head": 0.1} | ({} if gradient is None else {"other": gradient})
        sizes = {f"{n}.weight": {Stat.L2: g, Stat.NONFINITE: 0.0} for n, g in trained.items()}
        moved = {p.name: {Stat.RMS: 1e-3 * (p.module in trained)} for p in places}
        outputs = [Place(n, kind="Linear", module=n, depth=d) for n, d in depths.items() if d >= 0]
        example = Example(steps).scalars(loss=[2.0] * steps)
        example.stream(Stream.GRADIENT, places, sizes).stream(Stream.UPDATE, places, moved)
        example.stream(Stream.ACTIVATION, outputs, {p.name: {Stat.MEAN: 0.1} for p in outputs})
        [found] = NoGradient().check(example.history)
        assert (found.where, found.severity) == ("embedding", severity)

    def zero(self, *, steps=20, gradient=0.0, spread=1.0, dead=0.0, names="ab"):
        """Two heads behind one trunk; the gradient of the first one is given."""
        names = ("trunk", *names)
        places = [
            Place(f"{n}.weight", kind="weight", shape=(8, 8), depth=min(i, 1), module=n)
            for i, n in enumerate(names)
        ]
        sizes = {p.name: {Stat.L2: 0.1, Stat.NONFINITE: 0.0} for p in places}
        sizes[places[1].name] = {Stat.L2: gradient, Stat.NONFINITE: 0.0}
        moved = {p.name: {Stat.RMS: 1e-3 * (p is not places[1])} for p in places}
        outputs = [Place(n, kind="Linear", module=n, depth=min(i, 1)) for i, n in enumerate(names)]
        outputs.append(Place("act", kind="ReLU", module="act", depth=2))
        measured = {n: {Stat.MEAN: 0.1, Stat.SAMPLE_STD: spread} for n in names}
        measured["act"] = {Stat.MEAN: 0.1, Stat.INACTIVE_SHARE: dead}
        example = Example(steps).scalars(loss=[2.0] * steps)
        example.stream(Stream.GRADIENT, places, sizes).stream(Stream.UPDATE, places, moved)
        return list(
            NoGradient().check(example.stream(Stream.ACTIVATION, outputs, measured).history)
        )

    def test_a_head_whose_gradient_is_always_exactly_zero_gets_twenty_steps(self):
        [found] = self.zero()
        assert (found.where, found.severity) == ("a", Severity.ERROR)
        assert "exactly 0" in found.summary
        assert not self.zero(steps=19)

    @pytest.mark.parametrize("changes", [{"gradient": 1e-9}, {"spread": 0.0}, {"dead": 1.0}])
    def test_small_gradients_constant_outputs_and_dead_units_behind_are_left_alone(self, changes):
        assert not self.zero(**changes)

    def test_an_expert_with_zero_gradients_beside_others_is_a_note(self):
        [found] = self.zero(names=("experts.0", "experts.1"))
        assert found.severity is Severity.INFO

    def test_with_several_optimizers_each_updates_its_own_part(self):
        assert not self.check(steps=30, optimizers=2.0, stepped=False)
        [found] = self.check(steps=30, optimizers=2.0)
        assert (found.where, found.severity) == ("a", Severity.ERROR)

    def test_no_gradient_at_all_is_an_error_unless_the_scaler_skips_the_steps(self):
        [found] = self.check(everywhere=True)
        assert "backward" in found.fix
        assert not self.check(everywhere=True, skipped=1.0)


class TestClassNumbers:
    """Eight outputs against class numbers 0 to 6, at a loss of 0.2 once they are learned."""

    event = kind("MSELoss", target_type="int64", prediction_shape="(32, 8)", target_shape="(32,)")

    @pytest.mark.parametrize(("spread", "found"), [(1.8, True), (30.0, False)])
    def test_a_loss_that_no_squared_error_can_have_is_of_other_terms(self, spread, found):
        seen = {"prediction_mean": 3.0, "target_mean": 3.0, "target_std": 2.0, "loss": 0.2}
        limits = {"prediction_min": -0.5, "prediction_max": 6.5}
        assert found == bool(
            run(LossTaskMismatch(), 40, self.event, prediction_std=spread, **seen, **limits)
        )


class TestConnections:
    def test_a_connection_that_was_repaired_is_over(self):
        wrong = kind(wiring="softmax_before_cross_entropy")
        assert run(SoftmaxBeforeCrossEntropy(), 40, wrong)
        assert not run(SoftmaxBeforeCrossEntropy(), 40, wrong, kind(step=30))

    def test_a_second_loss_of_the_same_program_repairs_nothing(self):
        wrong = kind(wiring="softmax_before_cross_entropy")
        assert run(SoftmaxBeforeCrossEntropy(), 40, wrong, kind(step=1))

    @pytest.mark.parametrize(("low", "total"), [(0.0, 3.0), (-0.2, 1.0)])
    def test_positive_logits_or_logits_with_sum_1_are_no_probabilities(self, low, total):
        assert not run(SoftmaxBeforeCrossEntropy(), 6, kind(classes=10.0), prediction_min=low,
                       prediction_row_sum_min=total, prediction_row_sum_max=total)  # fmt: skip

    @pytest.mark.parametrize("text", ["MSELoss + L1Loss", "CrossEntropyLoss"])
    def test_ranges_are_compared_for_a_single_regression_loss(self, text):
        limits = {"target_min": -3.0, "target_max": 3.0, "target_std": 1.0}
        assert not run(OutputRangeMismatch(), 6, kind(text, last_activation="relu"), **limits)
        assert run(OutputRangeMismatch(), 6, kind("MSELoss", last_activation="relu"), **limits)

    @pytest.mark.parametrize(
        ("text", "prediction", "target", "wrong"),
        [
            ("MSELoss", "(32, 1)", "(32,)", True),
            ("MSELoss", "(32,)", "(32, 1)", True),
            ("MSELoss", "(32, 32)", "(32, 32)", True),
            ("MSELoss", "(32, 5)", "(32, 1)", False),
            ("MSELoss", "(32, 5)", "(32, 5)", False),
            ("MSELoss", "(1,)", "(1, 1)", False),
            ("", "(32, 1)", "(32,)", False),
        ],
    )
    def test_only_all_pairs_of_a_column_and_a_row_are_an_accident(
        self, text, prediction, target, wrong
    ):
        event = kind(
            text,
            wiring="prediction_and_target_broadcast",
            prediction_shape=prediction,
            target_shape=target,
        )
        assert bool(run(LossTaskMismatch(), 6, event)) is wrong

    def test_a_subtracted_logarithm_of_the_variance_is_one(self):
        event = kind("GaussianNLLLoss", wiring="logarithm_of_variance_subtracted")
        [finding] = run(LossTaskMismatch(), 6, event)
        assert "falls without a limit" in finding.summary


class TestNoSupervision:
    shape = MappingProxyType({"target_shape": "(8, 512)"})

    def test_one_empty_batch_without_a_nan_is_no_fault(self):
        share = np.r_[np.full(7, 0.2), 0.0]
        assert not run(NoSupervision(), 8, kind(**self.shape), loss=2.0, supervised_share=share)

    def test_an_empty_batch_that_made_the_weights_nan_stays_the_cause(self):
        share, diverged = np.r_[0.2, 0.0, np.full(6, 0.2)], np.r_[0.0, np.ones(7)]
        loss = np.where(diverged > 0, np.nan, 2.0)
        [found] = run(NoSupervision(), 8, kind(**self.shape), supervised_share=share, loss=loss,
                      nonfinite_loss=diverged)  # fmt: skip
        assert found.since_step == 1

    def test_of_a_large_target_a_part_is_read(self):
        large = kind(target_shape="(64, 4096)")
        assert not run(NoSupervision(), 8, large, loss=2.0, supervised_share=0.0)
        assert run(NoSupervision(), 8, large, loss=0.0, supervised_share=0.0)

    def test_fewer_targets_than_samples_are_hardly_any(self):
        [found] = run(NoSupervision(), 12, kind(**self.shape), loss=2.0, supervised_share=1e-3)
        assert found.severity is Severity.WARNING
        assert not run(NoSupervision(), 12, kind(**self.shape), loss=2.0, supervised_share=1 / 512)


class TestLossTermInactive:
    ce, kl = np.linspace(2, 1, 25), np.linspace(0.5, 0.4, 25)

    def terms(self, detached="", total=None, **columns):
        columns = {"ce": self.ce, "kl": self.kl, **columns}
        given = {f"loss_term__{name}": c for name, c in columns.items()}
        loss = sum(columns.values()) if total is None else total
        return run(LossTermInactive(), 25, kind(detached_terms=detached), loss=loss, **given)

    def test_a_term_without_a_gradient_is_named(self):
        assert "kl" in self.terms("kl")[0].summary

    def test_numbers_logged_beside_a_total_are_for_display(self):
        assert not self.terms("ce,kl")
        assert not self.terms("kl", total=self.ce)

    def test_a_term_of_0_may_be_switched_off(self):
        assert not self.terms("kl", kl=0 * self.kl)

    def test_a_constant_term_has_no_effect(self):
        assert "kl" in self.terms(kl=0.5 + 0 * self.kl)[0].summary

    def test_a_weight_that_is_warmed_up_beside_another_loss_gets_twenty_steps(self):
        event = kind("CrossEntropyLoss + KLDivLoss", wiring="KLDivLoss_weighted_0")
        assert not run(LossTermInactive(), 19, event, loss=2.0)
        assert run(LossTermInactive(), 20, event, loss=2.0)
        assert not run(LossTermInactive(), 40, event, kind("CrossEntropyLoss + KLDivLoss", step=5),
                       loss=2.0)  # fmt: skip


class TestNoSignal:
    def test_a_hinge_that_is_satisfied_after_learning_is_no_fault(self):
        norm, loss = np.r_[np.ones(40), np.zeros(40)], np.r_[np.linspace(1, 0, 40), np.zeros(40)]
        assert not run(NoSignal(), 80, loss=loss, gradient_norm=norm)
        assert run(NoSignal(), 80, loss=1.0, gradient_norm=norm)

    def test_a_loss_of_0_with_gradients_is_healthy(self):
        assert not run(NoSignal(), 40, loss=0.0, gradient_norm=0.1)


class TestWrongTrainEvalMode:
    def check(self, share, loss=2.0, module_kind="BatchNorm2d", **changes):
        n = len(share)
        place = Place("1.weight", kind="norm_scale", shape=(8,), module="1",
                      module_kind=module_kind, **changes)  # fmt: skip
        example = Example(n).scalars(loss=np.broadcast_to(loss, n), norm_eval_share=share)
        example.stream(Stream.WEIGHT, [place], {"1.weight": {Stat.L2: 2.8}})
        return list(WrongTrainEvalMode().check(example.history))

    def test_it_names_the_step_of_the_change(self):
        [found] = self.check([0.0, 0.0, 1.0, 1.0])
        assert found.since_step == 2

    def test_frozen_and_partly_frozen_normalisation_is_left_alone(self):
        assert not self.check([1.0] * 6, trainable=False)
        assert not self.check([1.0] * 6, optimized=False)
        assert not self.check([0.5] * 6)

    @pytest.mark.parametrize(
        ("every", "known", "planned", "found"),
        [(1, 0, 100, True), (1, 0, 1000, False), (1, 1, 100, False), (5, 0, 500, False)],
        ids=["at the end", "early", "a pretrained model", "each fifth loss is reported"],
    )
    def test_a_small_momentum_leaves_initial_statistics(self, every, known, planned, found):
        reported = np.arange(planned if planned < 1000 else 100) % every == 0
        loss = np.where(reported, 2.0, np.nan)
        history = Example(len(loss)).scalars(loss=loss, norm_eval_share=0.0 * loss).history
        history.facts.update(norm_momentum_min=0.01, norm_statistics_known=float(known))
        history.total_steps = planned
        assert bool(list(WrongTrainEvalMode().check(history))) is found

    @pytest.mark.parametrize(("name", "found"), [("loss__val", True), ("loss__train", False)])
    def test_the_loss_of_another_split_shows_that_initial_statistics_matter(self, name, found):
        values = {"loss": [2.0] * 50, "norm_eval_share": [0.0] * 50, name: [3.0] * 50}
        history = Example(50).scalars(**values).history
        history.facts.update(norm_momentum_min=0.01)
        assert bool(list(WrongTrainEvalMode().check(history))) is found

    def test_the_mean_of_an_epoch_is_recorded_in_eval_mode(self):
        rare = np.where(np.arange(40) % 10 == 9, 1.0, np.nan)
        assert not self.check(rare, loss=2.0 * rare)


class TestConstantTargets:
    def check(self, mean, text="CrossEntropyLoss", optimizers=1.0, shape="(32,)", outputs=10):
        targets = dict.fromkeys(("target_mean", "target_min", "target_max"), mean)
        example = Example(len(mean)).scalars(
            loss=[2.0] * len(mean), target_classes=[1.0] * len(mean), **targets
        )
        head = Place("2.weight", kind="weight", shape=(outputs, 8), module="2", flags=("output",))
        history = example.stream(Stream.WEIGHT, [head], {}).history
        history.facts["optimizers"] = optimizers
        history.add(kind(text, target_shape=shape, classes=10.0))
        return list(ConstantOrDuplicateInput().check(history))

    def test_batches_of_changing_classes_are_sorted_data(self):
        assert self.check(np.repeat([0.0, 1.0], 10))

    def test_one_class_only_needs_ten_thousand_targets(self):
        assert not self.check(np.zeros(300))
        assert self.check(np.zeros(320))

    def test_class_0_is_right_by_definition_in_a_contrastive_loss(self):
        assert not self.check(np.zeros(320), outputs=128)

    def test_adversarial_losses_and_small_batches_are_left_alone(self):
        changing = np.repeat([0.0, 1.0], 10)
        assert not self.check(changing, "BCEWithLogitsLoss")
        assert not self.check(changing, optimizers=2.0)
        assert not self.check(changing, shape="(4,)")

    @pytest.mark.parametrize(("value", "wrong"), [(0.0, False), (1.0, False), (3.5, True)])
    def test_a_constant_number_is_reported_but_not_a_residual_or_a_label(self, value, wrong):
        assert bool(self.check(np.full(20, value), "MSELoss")) is wrong
