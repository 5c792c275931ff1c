"""The detection benchmark scores as documented, and clear faults are still found."""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.short_and_slow import parameters

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from detection.bench import Result, bench, judge
from detection.case import ANYWHERE, Case, Class, Split
from detection.controls import CONTROLS
from detection.faults import CASES
from detection.fourth_part import BASES
from detection.fourth_part import mapping as fourth_part
from detection.program import Program
from detection.report import data, false_alarms, text
from detection.score import NO_FIX, Rate, in_top, is_better, place_right, quantile, scores, wilson
from detection.second_part import mapping as second_part
from detection.third_part import mapping as third_part
from detection.train import Outcome, Shown, run
from trainvitals.diagnosis.fixes import Moment, at
from trainvitals.diagnosis.registry import RULES

DEAD = Shown("dead_relu", "act1", 20, "warning")
RATE = Shown("learning_rate_too_high", "", 10, "error")

CLEAR_FAULTS = (
    "zeros@tanh-rings",
    "constant@tanh-rings",
    "nan_in_the_input_at_step_60@lstm-cue",
    "square_root_of_zero_in_the_loss@mlp-friedman",
    "relative_error_with_zero_targets@mlp-friedman",
    "rate_times_300@mlp-quadratic",
    "rate_over_10000@tanh-rings",
    "hidden_biases_minus_ten@mlp-quadratic",
    "large_init_of_deep_tanh@tanh-rings",
    "ten_sigmoid_layers@deep-digits",
)
CALM = (
    "plain@mlp-digits",
    "plain@tanh-rings",
    "cosine_to_zero@mlp-digits",
    "targets_with_variance_nine@mlp-quadratic",
    "lora@mlp-digits",
    "one_sigmoid_layer@tanh-rings",
)
SLOW = {
    *("constant@tanh-rings", "relative_error_with_zero_targets@mlp-friedman"),
    *("rate_over_10000@tanh-rings", "large_init_of_deep_tanh@tanh-rings"),
    *("ten_sigmoid_layers@deep-digits", "hidden_biases_minus_ten@mlp-quadratic"),
    *("plain@tanh-rings", "targets_with_variance_nine@mlp-quadratic"),
}
"""Cases of which `make test` has another one of the same class."""
EVERY = 8
"""A fixed cadence: the default depends on the measured time of a step."""


def some(names: tuple[str, ...]) -> list[object]:
    """Return the names as parameters; those in `SLOW` are in `make test-all` only."""
    return parameters({n: n for n in names}, slow=SLOW & set(names))


# Scoring.


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [(0, 93, 0.0, 0.0397), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1)],
)
def test_the_wilson_interval_has_the_published_values(hits, of, low, high):
    assert wilson(hits, of) == pytest.approx((low, high), abs=1e-4)


def test_the_wilson_interval_without_observations_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


def test_top_k_looks_at_the_first_k_findings_only():
    shown = [RATE, RATE, RATE, DEAD]
    assert not in_top(shown, {"dead_relu"}, 3)
    assert in_top(shown, {"dead_relu"}, 4)
    assert not in_top([], {"dead_relu"}, 3)


def test_a_place_is_right_only_with_an_acceptable_cause():
    assert place_right(DEAD, {"dead_relu"}, ("fc1", "act*"))
    assert not place_right(DEAD, {"dead_relu"}, ("fc1",))
    assert not place_right(DEAD, {"symmetric_init"}, ("act*",))
    assert not place_right(None, {"dead_relu"}, ("*",))


def test_a_twin_is_better_by_a_tenth_on_average_and_finite():
    assert is_better([0.5, 0.4], [0.4, 0.4])
    assert not is_better([0.5], [0.46])
    assert is_better([math.inf], [0.9])
    assert not is_better([math.inf], [math.inf])
    assert not is_better([0.0], [0.0])


def test_quantiles_are_interpolated():
    assert quantile([0, 10], 0.9) == pytest.approx(9)
    assert quantile([4], 0.9) == 4
    assert math.isnan(quantile([], 0.5))


def outcome(case: Case, **changed: object) -> Outcome:
    made = Outcome(case.name, 0, False, 1.0, "healthy", None, (), (), None, 0.1, ANYWHERE)
    return replace(made, **changed)  # type: ignore[arg-type]


def judged(faulty: dict[str, object], twin: dict[str, object]):
    case = CASES["nan_in_the_input_at_step_60@lstm-cue"]
    name = {"repaired": True, "metric": 0.1}
    return judge([case], [outcome(case, **faulty), outcome(case, **(name | twin))])


def test_an_alarm_before_the_onset_does_not_detect_the_fault():
    early = {"first_alert_step": 30, "alarms": (RATE,), "headline": RATE, "roots": (RATE,)}
    [pair] = judged(early, {}).pairs
    assert (pair.flagged, pair.steps_to_alert) == (False, None)


def test_steps_to_the_first_alert_count_from_the_onset():
    [pair] = judged({"first_alert_step": 69, "headline": DEAD, "roots": (DEAD,)}, {}).pairs
    assert (pair.flagged, pair.steps_to_alert, pair.top1, pair.findings) == (True, 9, False, 1)


def test_a_pair_whose_twin_is_no_better_is_listed_and_not_counted():
    result = judged({}, {"metric": 0.95})
    assert (result.pairs, result.healthy) == ([], [])
    assert result.not_counted[0].startswith("nan_in_the_input_at_step_60@lstm-cue")


def test_a_resolved_alarm_of_a_twin_is_a_false_alarm():
    rates = false_alarms(judged({}, {"alarms": (RATE,)}))
    assert (rates["twins"].hits, rates["twins"].of) == (1, 1)
    assert rates["all, still flagged at the end"].hits == 0


# The fix of the headline.


def trained_again(**second: object):
    case = CASES["nan_in_the_input_at_step_60@lstm-cue"]
    input_ = Shown("non_finite_input", "rnn", 60, "error")
    again = outcome(case, **({"metric": 0.2} | second)) if second else None
    [pair] = judged({"headline": input_, "roots": (input_,), "second": again}, {}).pairs
    return pair


def test_a_fix_is_proven_by_a_better_training_without_an_alarm():
    assert trained_again(metric=0.9).fix == "proven"
    assert trained_again(metric=0.91).fix == "no better: 1, then 0.91"
    assert trained_again(headline=RATE).fix == "still open: learning_rate_too_high"
    assert trained_again(error="IndexError: list index out of range").fix.startswith("raised Index")
    assert trained_again().fix == NO_FIX


def test_a_pair_with_another_cause_in_the_headline_has_no_say_about_fixes():
    [pair] = judged({"headline": RATE, "roots": (RATE,)}, {}).pairs
    assert pair.fix is None
    assert scores([pair, trained_again(metric=0.1), trained_again()]).fix == Rate(1, 2)


def test_the_report_lists_the_fixes_that_are_not_proven():
    shown = text(Result(pairs=[trained_again(), trained_again(metric=0.1)]))
    assert "| no fix offered | 50.0% (1/2;" in shown
    assert "nan_in_the_input_at_step_60@lstm-cue: non_finite_input at rnn: no fix offered" in shown


@pytest.mark.parametrize(
    "name",
    [
        "zeros@tanh-rings",
        "softmax_before_cross_entropy@cnn-digits",
        pytest.param("no_zero_grad@cnn-digits", marks=pytest.mark.slow),
        pytest.param(
            "constant_feature_divided_by_its_deviation@mlp-digits", marks=pytest.mark.slow
        ),
        "batch_norm_in_eval_mode@cnn-digits",
        "sorted_by_class@mlp-digits",
        pytest.param("weight_decay_of_100@mlp-digits", marks=pytest.mark.slow),
    ],
)
def test_the_bench_applies_a_fix_at_each_place_of_its_loop(name):
    [pair] = bench([CASES[name]], [], 1, every=EVERY).pairs
    assert pair.fix == "proven"


def test_a_fix_that_raises_is_an_outcome_and_no_crash():
    case = CASES["zeros@tanh-rings"]
    second = run(case, 0, fix=at(Moment.BEFORE_TRAINING, "model.get_submodule('missing')"))
    assert second.error.startswith("AttributeError")
    assert second.metric == math.inf


# The cases.


def test_there_are_enough_cases_of_every_class_and_controls_in_both_splits():
    kinds = Counter(case.kind for case in CASES.values())
    assert len(CASES) >= 120
    assert len(CONTROLS) >= 60
    assert set(kinds) == {*Class}
    assert min(kinds.values()) >= 8
    for cases in (CASES, CONTROLS):
        assert {case.base.split for case in cases.values()} == {*Split}


def held_out(cases: dict[str, Case]) -> list[Case]:
    return [case for case in cases.values() if case.base.split == Split.HELD_OUT]


def test_the_held_out_part_has_every_class_of_fault_and_many_programs():
    cases = held_out(CASES)
    assert len(cases) >= 100
    assert len(held_out(CONTROLS)) >= 40
    assert min(Counter(case.kind for case in cases)[kind] for kind in Class) >= 5
    assert len({case.base.name for case in cases}) >= 7


@pytest.mark.parametrize("shared", ["data", "family"])
def test_no_data_set_and_no_architecture_is_in_both_splits(shared):
    of = {
        split: {getattr(base, shared) for base in BASES.values() if base.split == split}
        for split in Split
    }
    assert not of[Split.TUNING] & of[Split.HELD_OUT]


@pytest.mark.parametrize("mapping", [second_part, third_part, fourth_part])
def test_every_fault_and_control_that_a_mapping_names_exists(mapping):
    def titles(cases: dict[str, Case]) -> set[str]:
        return {name.partition("@")[0] for name in cases}

    assert {*mapping.FAULTS} <= titles(CASES)
    assert {*mapping.CONTROLS} <= titles(CONTROLS)


def test_the_causes_of_held_out_faults_are_rules():
    rules = {rule.name() for rule in RULES}
    assert {cause for case in held_out(CASES) for cause in case.causes} <= rules


@pytest.mark.parametrize(
    "name",
    parameters(
        {name: name for name, base in BASES.items() if base.split == Split.HELD_OUT},
        slow={"crnn-chirps", "pointnet-solids", "neuralode-pendulums", "maskedlm-recipes"},
    ),
)
def test_a_held_out_program_learns_in_two_thirds_of_its_steps(name):
    program = BASES[name].build(0)
    program.steps = program.steps * 2 // 3
    before = metric_of(program)
    train(program)
    assert metric_of(program) < 0.7 * before


def train(program: Program) -> None:
    """Train without a monitor, in the order of the bench's own loop."""
    torch.manual_seed(0)
    optimizer = program.optimizer(program.parameters(program.model), program.lr)
    schedule = program.schedule(optimizer, program.steps) if program.schedule else None
    order = torch.Generator().manual_seed(0)
    program.model.train()
    for step in range(program.steps):
        rows = program.sample(program, step, order)
        optimizer.zero_grad()
        program.loss(program.model(program.data.x[rows]), program.data.y[rows]).backward()
        if program.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(program.model.parameters(), program.clip_norm)
        optimizer.step()
        if schedule:
            schedule.step()


def metric_of(program: Program) -> float:
    program.model.eval()
    with torch.no_grad():
        return float(program.metric(program.model(program.data.x_test), program.data.y_test))


def test_the_same_seed_trains_the_same_program():
    case = CASES["zeros@tanh-rings"]
    first, second = (run(case, 3, repaired=True, every=EVERY).metric for _ in range(2))
    assert first == second


def test_two_processes_find_what_one_finds():
    case = CASES["zeros@tanh-rings"]
    one, two = (bench([case], [], 1, jobs=jobs, every=EVERY).pairs for jobs in (1, 2))
    assert one == two


# The subset: what is found today stays found, and healthy runs stay without an alarm.


@pytest.mark.parametrize("name", some(CLEAR_FAULTS))
def test_a_clear_fault_is_found_and_named(name):
    case = CASES[name]
    assert case.fault is not None
    result = bench([case], [], 1, every=EVERY)
    [pair] = result.pairs
    assert pair.flagged
    assert pair.top3
    assert not [o for o in result.healthy if o.alarms]


@pytest.mark.parametrize("name", some(CALM))
def test_a_healthy_control_has_no_alarm(name):
    result = bench([], [CONTROLS[name]], 1, every=EVERY)
    assert not [o.alarms for o in result.healthy if o.alarms]


def test_the_report_names_every_run_that_was_missed():
    result = judged({}, {})
    assert "numeric: nan_in_the_input_at_step_60@lstm-cue" in text(result)
    assert data(result)["pairs"][0]["flagged"] is False
    assert scores(result.pairs).recall.hits == 0
