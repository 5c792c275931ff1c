"""TV301, TV303, TV603, TV701, TV901, TV954: the right place and step, and the traps around them."""

import numpy as np
import pytest

import trainvitals
from trainvitals.api.schema import Severity
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.bias_drift import BiasDrift
from trainvitals.diagnosis.rules.init_scale_too_small import InitScaleTooSmall
from trainvitals.diagnosis.rules.non_finite_value import NonFiniteValue
from trainvitals.diagnosis.rules.parameter_not_updated import ParameterNotUpdated
from trainvitals.diagnosis.rules.symmetric_init import SymmetricInit
from trainvitals.wire import STATISTICS, Event, EventKind, Frame, Layout, Place, Stat, Stream


class TestSymmetricInit:
    def check(self, weight, gradient, *, steps=3, size=0.5, other=(), **changes):
        place = Place("0.weight", **{"kind": "weight", "shape": (8, 8), "depth": 0, **changes})
        places = [place, *(Place(n, kind="weight", shape=(8, 8), depth=1) for n in other)]
        example = Example(steps)
        for stream, share in ((Stream.WEIGHT, weight), (Stream.GRADIENT, gradient)):
            columns = {n: {Stat.DISTINCT_ROWS: 1.0, Stat.L2: 0.5} for n in other}
            columns[place.name] = {Stat.DISTINCT_ROWS: share, Stat.L2: size}
            example.stream(stream, places, columns)
        return list(SymmetricInit().check(example.history))

    def test_equal_rows_with_equal_gradients_stay_equal(self):
        assert self.check(0.125, 0.125)[0].where == "0.weight"

    @pytest.mark.parametrize(
        ("steps", "other", "found"),
        [(1, ["1.weight"], 0), (3, ["1.weight"], 1), (3, [], 0)],
        ids=["one layer", "three steps", "no gradient at all: TV107"],
    )
    def test_zero_gradients_of_some_layers_are_judged_after_three_steps(self, steps, other, found):
        # Before a layer that starts at zero they are zero for one step, and then differ.
        assert len(self.check(0.125, 0.125, steps=steps, size=0.0, other=other)) == found

    @pytest.mark.parametrize(
        ("weight", "gradient", "changes"),
        [
            (1.0, 0.125, {}),
            (0.125, 1.0, {}),
            (0.125, [0.125, 1.0, 1.0], {}),
            (0.125, 0.125, {"kind": "embedding"}),
            (0.125, 0.125, {"trainable": False}),
        ],
        ids=["dead units", "zero head", "separates", "embedding", "frozen"],
    )
    def test_what_separates_or_is_meant_so_is_left_alone(self, weight, gradient, changes):
        assert not self.check(weight, gradient, **changes)


class TestInitScaleTooSmall:
    def check(self, gain, steps, loss=2.0, nonlinearity="relu"):
        places = [Place(str(i), depth=i, nonlinearity=nonlinearity) for i in range(12)]
        columns = {
            p.name: {Stat.SAMPLE_STD: gain**i, Stat.UNIT_MEAN_STD: 1e-3}
            for i, p in enumerate(places)
        }
        example = Example(steps).scalars(loss=np.broadcast_to(loss, steps))
        return list(
            InitScaleTooSmall().check(example.stream(Stream.ACTIVATION, places, columns).history)
        )

    def test_it_is_a_note_at_first_and_a_warning_when_nothing_is_learned(self):
        assert self.check(0.4, 10)[0].severity is Severity.INFO
        assert self.check(0.4, 150)[0].severity is Severity.WARNING

    def test_it_stays_a_note_when_the_run_learns(self):
        [finding] = self.check(0.4, 150, loss=np.linspace(2, 1, 150))
        assert finding.severity is Severity.INFO

    def test_a_sigmoid_stack_is_the_nonlinearitys_fault(self):
        assert not self.check(0.4, 150, nonlinearity="sigmoid")

    def test_a_signal_that_holds_is_silence(self):
        assert not self.check(0.9, 150)


class TestParameterNotUpdated:
    @pytest.mark.parametrize(("size", "expected"), [(1e18, ["a"]), (3e21, [])])
    def test_a_gradient_whose_square_overflows_has_exploded(self, size, expected):
        place = Place("a", kind="weight", shape=(8, 8), module="a")
        still = dict.fromkeys((Stat.L2, Stat.MEAN, Stat.ABS_MEAN), 2.0)
        example = Example(9).scalars(loss=np.full(9, -1e9))
        example.stream(Stream.WEIGHT, [place], {"a": still})
        example.stream(Stream.UPDATE, [place], {"a": {Stat.RMS: 0.0}})
        gradient = {Stat.L2: size * 8, Stat.NONFINITE: 0.0}
        example.stream(Stream.GRADIENT, [place], {"a": gradient})
        assert [f.where for f in ParameterNotUpdated().check(example.history)] == expected

    def check(
        self,
        *,
        shapes=((8, 8), (4, 8)),
        optimized=(True, False),
        gradient=0.1,
        moves=False,
        loss=None,
    ):
        n = 9 if loss is None else len(loss)
        places = [
            Place(n, kind="weight", shape=s, depth=i, module=n, optimized=o)
            for i, (n, s, o) in enumerate(zip("ab", shapes, optimized, strict=True))
        ]
        stuck = next((p for p in places if not p.optimized), places[1])
        size = {p.name: gradient if p is stuck else 0.1 for p in places}
        still = dict.fromkeys((Stat.L2, Stat.MEAN, Stat.ABS_MEAN), 2.0)
        moving = dict.fromkeys(still, 2 + 0.1 * np.arange(n))
        example = Example(n)
        if loss is not None:
            example.scalars(loss=loss)
        example.stream(Stream.GRADIENT, places, {n: {Stat.L2: s} for n, s in size.items()})
        example.stream(
            Stream.WEIGHT,
            places,
            {p.name: still if p is stuck and not moves else moving for p in places},
        )
        example.stream(
            Stream.UPDATE, places, {p.name: {Stat.RMS: 0.0 if p is stuck else 1e-3} for p in places}
        )
        return list(ParameterNotUpdated().check(example.history))

    def test_a_head_the_optimizer_does_not_hold_is_an_error(self):
        [finding] = self.check()
        assert (finding.where, finding.severity) == ("b", Severity.ERROR)

    def test_one_it_holds_and_never_moves_is_an_error_too(self):
        [finding] = self.check(optimized=(True, True))
        assert (finding.where, finding.severity) == ("b", Severity.ERROR)

    def test_a_large_front_part_left_out_is_a_frozen_backbone(self):
        [finding] = self.check(shapes=((64, 64), (4, 8)), optimized=(False, True))
        assert finding.severity is Severity.INFO

    @pytest.mark.parametrize(
        ("end", "severity"), [(0.3, Severity.INFO), (2.0, Severity.ERROR)], ids=["useful", "not"]
    )
    def test_a_frozen_backbone_whose_head_does_not_learn_is_an_error(self, end, severity):
        loss = np.linspace(2.3, end, 120)
        [finding] = self.check(shapes=((64, 64), (4, 8)), optimized=(False, True), loss=loss)
        assert finding.severity is severity

    def test_a_small_front_part_left_out_is_a_warning(self):
        [finding] = self.check(shapes=((4, 8), (64, 64)), optimized=(False, True))
        assert finding.severity is Severity.WARNING

    def test_without_a_gradient_worth_the_name_nothing_should_move(self):
        assert not self.check(gradient=1e-9)

    def test_what_another_optimizer_moves_is_updated(self):
        assert not self.check(moves=True)
        assert not self.check(optimized=(True, True), moves=True)


class TestBiasDrift:
    def check(self, drift, *, spread=1.0, loss=2.0, flags=(), kind="MSELoss"):
        n = len(drift)
        bias = Place("h.bias", kind="bias", shape=(4,), depth=1, module="h", flags=flags)
        column = {Stat.DRIFT_RMS: drift, Stat.DRIFT_MEAN: drift}
        example = Example(n).scalars(loss=np.broadcast_to(loss, n))
        example.stream(Stream.WEIGHT, [bias], {"h.bias": column})
        example.stream(Stream.ACTIVATION, [Place("h", depth=1)], {"h": {Stat.SAMPLE_STD: spread}})
        example.history.add(Event(0, 0.0, EventKind.LOSS_KIND, kind, {}))
        return list(BiasDrift().check(example.history))

    def test_one_that_runs_away_is_named_with_the_step_it_left_the_signal(self):
        [finding] = self.check(np.linspace(0, 10, 200))
        assert finding.where == "h.bias"
        assert 8 <= finding.since_step <= 12, "d passes 0.4 at step 8"
        assert seen(finding, "common share of the drift") == 1.0

    def test_its_first_step_does_not_depend_on_how_much_the_signal_grew_afterwards(self):
        drift, spread = np.linspace(0, 20, 240), np.linspace(1, 4, 240)
        first = {self.check(drift[:n], spread=spread[:n])[0].since_step for n in (120, 180, 240)}
        assert len(first) == 1

    def test_the_same_walk_within_a_wide_signal_is_none(self):
        assert not self.check(np.linspace(0, 10, 200), spread=20.0, loss=np.linspace(2, 1, 200))

    @pytest.mark.parametrize("flag", ["before_norm", "recurrent", "attention"])
    def test_biases_whose_scale_is_another_are_left_out(self, flag):
        assert not self.check(np.linspace(0, 10, 200), flags=(flag,))

    @pytest.mark.parametrize(("flags", "kind"), [(("output",), "MSELoss"), ((), "NLLLoss")])
    def test_a_last_bias_of_a_softmax_that_moves_by_a_seventh_is_left_out(self, flags, kind):
        # An LSTM that predicts a constant for 100 steps: its logits differ by 0.04 only.
        small = np.linspace(0, 0.14, 200)
        assert not self.check(small, spread=0.04, flags=("output",), kind="CrossEntropyLoss")
        assert self.check(small, spread=0.04, flags=flags, kind=kind)

    def test_one_that_settled_while_the_run_learns_is_none(self):
        settled = 3 * (1 - np.exp(-np.arange(200) / 5))
        assert not self.check(settled, loss=np.linspace(2, 0.5, 200))

    def test_an_extreme_value_is_one_even_when_it_stands_still(self):
        assert self.check(np.full(200, 9.0))


def seen(finding, quantity, field="seen"):
    [evidence] = [e for e in finding.evidence if e.quantity == quantity]
    return getattr(evidence, field)


def frame_of(history, stream):
    values = np.stack([history.values(stream, s) for s in STATISTICS[stream]], axis=2)
    steps = history.steps(stream)
    return Frame(stream, 0, steps, steps * 1.0, values)


class TestNonFiniteValue:
    def run(
        self, *, loss=(), gradients=(), weights=(), outputs=(), n=30, scale=None, captured=None
    ):
        """`captured`: the steps of which activations were captured; None: all."""

        def at(steps):
            return np.isin(np.arange(n), steps).astype(float)

        scalars = {"nonfinite_loss": at(loss), "nonfinite_gradients": at(gradients), "loss": 1.0}
        if scale:
            scalars["loss_scale"] = scale
        example = Example(n).scalars(**scalars)
        parameters = [Place(f"{m}.weight", shape=(2, 2), depth=i) for i, m in enumerate("ab")]
        modules = [Place(m, depth=i) for i, m in enumerate("ab")]
        for stream, places, bad in (
            (Stream.WEIGHT, parameters, weights),
            (Stream.GRADIENT, parameters, gradients),
            (Stream.ACTIVATION, modules, outputs),
        ):
            columns = {Stat.NONFINITE: at(bad), Stat.MIN: -3.0, Stat.MAX: 7.0}
            if stream is Stream.ACTIVATION and captured is not None:
                some = Example(captured).stream(
                    stream,
                    places,
                    {
                        p.name: {
                            k: v if np.isscalar(v) else v[captured] for k, v in columns.items()
                        }
                        for p in places
                    },
                )
                example.history.add(Layout(stream, 0, STATISTICS[stream], tuple(places)))
                example.history.add(frame_of(some.history, stream))
                continue
            example.stream(stream, places, {p.name: columns for p in places})
        return list(NonFiniteValue().check(example.history))

    def test_forward_first_names_the_first_module_and_its_last_finite_value(self):
        [finding] = self.run(loss=[20, 21], gradients=[20, 21], outputs=[20, 21])
        assert (finding.where, finding.since_step) == ("a", 20)
        assert "forward" in finding.summary
        assert seen(finding, "largest value there before") == 7.0

    def test_backward_first_names_the_last_module_since_backward_begins_there(self):
        [finding] = self.run(gradients=[20])
        assert (finding.where, finding.since_step) == ("b.weight", 20)
        assert "backward" in finding.summary

    def test_a_loss_alone_is_the_loss_functions_fault(self):
        [finding] = self.run(loss=[20], gradients=[20])
        assert (finding.where, finding.stream) == ("", Stream.SCALAR)
        assert "loss function" in finding.summary

    def test_weights_that_were_bad_before_anything_else_are_named(self):
        [finding] = self.run(weights=[20, 21], loss=[21], outputs=[21])
        assert finding.where == "a.weight"

    def test_masks_of_minus_infinity_are_by_design(self):
        assert not self.run(outputs=list(range(30)))

    def test_a_gradient_scaler_looking_for_its_scale_is_at_work(self):
        assert not self.run(gradients=[0, 3], scale=1024.0)

    @pytest.mark.parametrize("n", [60, 90, 400, 5000])
    def test_one_bad_step_is_reported_whatever_follows(self, n):
        [finding] = self.run(loss=[20], gradients=[20], n=n)
        assert finding.since_step == 20
        assert finding.is_alarm

    def test_it_is_an_error_while_it_is_fresh_and_a_warning_once_all_is_finite_again(self):
        [fresh] = self.run(loss=[20], gradients=[20], n=60)
        [old] = self.run(loss=[20], gradients=[20], n=90)
        assert (fresh.severity, old.severity) == (Severity.ERROR, Severity.WARNING)
        assert "all later values are finite" in old.summary

    def test_weights_that_stay_bad_stay_an_error(self):
        [finding] = self.run(loss=[20], weights=range(21, 200), n=200)
        assert finding.severity is Severity.ERROR

    def test_an_origin_that_was_not_captured_is_not_asserted(self):
        [finding] = self.run(loss=[20], gradients=[20], outputs=[20], captured=[0, 10, 30], n=40)
        assert "the origin was not observed" in finding.summary
        assert "finite" not in finding.summary.replace("Non-finite", "").replace("non-finite", "")
        assert (finding.where, finding.fix) == ("", "")
        assert finding.confidence < 1

    def test_outputs_without_a_number_are_not_called_finite(self):
        """A step that became a full one when its loss was seen has gradients and no outputs."""
        places, n = [Place("a", depth=0)], 40
        bad = np.arange(n) == 20
        unmeasured = np.where(bad, np.nan, 0.0)
        example = Example(n).scalars(loss=1.0, nonfinite_loss=bad.astype(float))
        example.stream(Stream.ACTIVATION, places, {"a": {Stat.NONFINITE: unmeasured}})
        [finding] = NonFiniteValue().check(example.history)
        assert "the origin was not observed" in finding.summary

    def test_an_origin_seen_at_a_later_step_is_named(self):
        [finding] = self.run(
            loss=[20, 22], gradients=[20, 22], outputs=[20, 22], captured=[0, 21, 22], n=40
        )
        assert (finding.where, finding.since_step) == ("a", 20)
        assert seen(finding, "non-finite entries", "text") == "at step 22"

    @pytest.mark.parametrize(
        ("operations", "guarded"),
        [
            ("log", "x.clamp_min(1e-8).log()"),
            ("sqrt", "(x + 1e-8).sqrt()"),
            ("div", "a / b.clamp_min(1e-8)"),
            ("exp", "x.clamp_max(80.0).exp()"),
            ("log,div", ""),
            ("", ""),
        ],
    )
    def test_the_advice_contains_the_guarded_operation(self, operations, guarded):
        history = Example(30).scalars(loss=1.0, nonfinite_loss=np.arange(30) == 20).history
        history.add(Event(20, 0.0, "nonfinite_loss", operations))
        [finding] = NonFiniteValue().check(history)
        assert finding.fix == ""
        assert guarded in finding.advice
        assert ("- Write `" in finding.advice) == bool(guarded)
        assert all(f"a {name} " in finding.summary for name in operations.split(",") if name)

    def test_a_first_module_with_bad_outputs_has_no_fix_because_its_input_must_be_checked(self):
        [finding] = self.run(loss=[20], outputs=[20])
        assert finding.fix == ""


def test_an_update_that_is_not_finite_is_found_before_the_forward_pass_that_fails():
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    model[0].bias.data.fill_(-100.0)  # all gradients of the first layer are 0
    optimizer = torch.optim.Adam(model.parameters(), eps=0.0)
    with trainvitals.watch(model, optimizer, collector="off") as monitor:
        loss = monitor.loss(model(torch.randn(16, 4)).square().mean())
        loss.backward()
        optimizer.step()
        finding = monitor.diagnosis().headline
    assert (finding.rule, finding.where) == ("non_finite_value", "0.weight")
    assert "in the update of 0.weight" in finding.summary
    assert "group['eps']" in finding.fix


def test_an_update_is_not_the_origin_if_the_loss_of_its_step_was_not_finite():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters())
    # No step but the first is planned: the outputs of the step of the NaN are not measured.
    with trainvitals.watch(model, optimizer, collector="off", every=1000) as monitor:
        for step in range(12):
            x = torch.randn(16, 4)
            x[3, 2] = float("nan") if step == 8 else 0.0
            loss = monitor.loss(model(x).square().mean())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        finding = monitor.diagnosis().headline
    assert (finding.rule, finding.since_step) == ("non_finite_value", 8)
    assert "in the loss; the origin was not observed" in finding.summary
    assert finding.fix == ""


def finding_of_an_update(*flags):
    """Return the finding of an update that is NaN at step 5, after finite gradients."""
    place = Place("0.weight", kind="weight", depth=0, flags=flags)
    rms = np.r_[np.full(5, 1e-3), np.nan]
    example = Example(6).scalars(
        loss=np.ones(6), nonfinite_loss=np.zeros(6), nonfinite_gradients=np.zeros(6)
    )
    columns = {"0.weight": {Stat.RMS: rms, Stat.UNCHANGED_SHARE: 0.0}}
    [finding] = NonFiniteValue().check(example.stream(Stream.UPDATE, [place], columns).history)
    return finding


def test_an_update_of_a_shard_may_come_from_the_gradient_of_another_rank():
    finding = finding_of_an_update("shard")
    assert (finding.where, finding.since_step) == ("0.weight", 5)
    assert "the gradients and the weights before it of this rank were finite" in finding.summary
    assert "the cause may be a gradient of another rank" in finding.summary
    assert finding.fix == "", "a larger epsilon does not change the gradient of another rank"


def test_an_update_of_a_whole_tensor_comes_from_this_rank():
    finding = finding_of_an_update()
    assert "another rank" not in finding.summary
    assert "group['eps']" in finding.fix
