"""Properties of every rule: a complete page, thresholds with a meaning, examples that decide."""

import ast
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainvitals.api.schema import Finding, Severity
from trainvitals.diagnosis import rules as package
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import parts
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.post_training import LOGGED, NAMES
from trainvitals.diagnosis.registry import RULES, all_rules, rule_by_code
from trainvitals.diagnosis.rule import Rule
from trainvitals.wire import STATISTICS, Frame, Layout, Place, Scalar, Stat, Stream

DECIDED_BY_PEOPLE = (
    "TV103",
    "TV107",
    "TV203",
    "TV407",
    "TV408",
    "TV501",
    "TV512",
    "TV513",
    "TV514",
    "TV608",
    "TV807",
    "TV808",
    "TV809",
    "TV901",
    "TV951",
    "TV952",
    "TV953",
    "TV954",
)
"""Rules without code: a person must decide, or change the model's or the loss's own code."""

CATALOGUE = {
    "TV101": "vanishing_gradient",
    "TV102": "exploding_gradient",
    "TV103": "no_gradient",
    "TV104": "missing_zero_grad",
    "TV105": "clipping_always_active",
    "TV107": "no_signal",
    "TV201": "dead_relu",
    "TV202": "saturated_activation",
    "TV203": "attention_logit_growth",
    "TV204": "missing_nonlinearity",
    "TV301": "symmetric_init",
    "TV302": "init_scale_too_large",
    "TV303": "init_scale_too_small",
    "TV304": "init_activation_mismatch",
    "TV305": "initial_loss_anomaly",
    "TV401": "softmax_before_cross_entropy",
    "TV402": "output_range_mismatch",
    "TV403": "loss_task_mismatch",
    "TV407": "no_supervision",
    "TV408": "loss_term_inactive",
    "TV501": "no_learning",
    "TV502": "loss_plateau",
    "TV503": "loss_divergence",
    "TV504": "loss_spike",
    "TV505": "loss_oscillation",
    "TV506": "overfitting",
    "TV507": "undertrained",
    "TV511": "entropy_collapse",
    "TV512": "reward_without_kl",
    "TV513": "rollout_mismatch",
    "TV514": "length_drift",
    "TV601": "learning_rate_too_high",
    "TV602": "learning_rate_too_low",
    "TV603": "parameter_not_updated",
    "TV604": "over_regularised",
    "TV605": "wrong_train_eval_mode",
    "TV606": "parameter_jump",
    "TV607": "absorbed_updates",
    "TV608": "state_not_restored",
    "TV609": "schedule_ended_early",
    "TV701": "bias_drift",
    "TV702": "bias_regularised",
    "TV703": "redundant_bias",
    "TV704": "output_bias_prior",
    "TV801": "unnormalised_input",
    "TV802": "constant_or_duplicate_input",
    "TV803": "target_not_scaled",
    "TV805": "class_imbalance",
    "TV806": "class_collapse",
    "TV807": "label_noise",
    "TV808": "trivial_target",
    "TV809": "scrambled_input",
    "TV901": "non_finite_value",
    "TV902": "non_finite_input",
    "TV903": "amp_overflow",
    "TV904": "amp_underflow",
    "TV951": "silent_run",
    "TV952": "dropped_records",
    "TV953": "rank_divergence",
    "TV954": "monitor_degraded",
}

each_rule = pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.name())


def test_codes_and_names_are_those_of_the_catalogue():
    assert {rule.code: rule.name() for rule in RULES if rule.code in CATALOGUE} == CATALOGUE
    assert len({rule.code for rule in RULES}) == len({rule.name() for rule in RULES}) == len(RULES)


def test_a_rule_is_found_by_its_code_and_an_unknown_code_is_an_error():
    assert rule_by_code("TV201").name() == "dead_relu"
    with pytest.raises(KeyError):
        rule_by_code("TV000")


@each_rule
def test_it_speaks_on_its_sick_example_with_everything_a_reader_needs(rule):
    findings = list(rule.check(rule.sick()))
    assert findings
    for finding in findings:
        assert (finding.code, finding.rule) == (rule.code, rule.name())
        assert re.search(r"\d|not watched", finding.summary), "the numbers"
        assert finding.summary.endswith(".")
        assert all((finding.evidence, finding.why, finding.advice))
        assert finding.stage is rule.stage or rule.code == "TV102"
        assert 0 < finding.confidence <= 1
        assert finding.since_step >= 0
        assert all(isinstance(e.seen, float | str) for e in finding.evidence)


@pytest.mark.parametrize("code", DECIDED_BY_PEOPLE)
def test_a_rule_without_code_says_why_there_is_none(code):
    page = rule_by_code(code).page()
    assert not page.fix
    said = f"{page.what_to_do} {page.when_it_is_wrong}"
    assert re.search(r"There is (no )?code", " ".join(said.split()))


@each_rule
def test_it_is_silent_on_its_healthy_example(rule):
    assert list(rule.check(rule.healthy())) == []


@each_rule
def test_it_is_silent_on_an_empty_history(rule):
    assert list(rule.check(History())) == []


@each_rule
def test_a_share_is_not_drawn_in_the_chart_of_the_loss(rule):
    for finding in rule.check(rule.sick()):
        for each in finding.evidence:
            assert not (each.unit == "share" and each.statistic.startswith("loss"))


@each_rule
def test_it_names_a_curve_to_draw_that_is_on_the_wire(rule):
    for finding in rule.check(rule.sick()):
        if rule.code.startswith("TV95"):
            assert not finding.stream
        elif finding.stream == Stream.SCALAR:
            assert finding.statistic in {
                *Scalar,
                *(LOGGED + name for q in NAMES.values() for name in q),
            }
        else:
            assert finding.statistic in STATISTICS[Stream(finding.stream)]


@each_rule
def test_its_page_is_complete_and_its_thresholds_mean_something(rule):
    page = rule.page()
    assert len(page.what_it_detects) > 80
    assert re.search(r"\d{4}|docs/", page.references), "a source with its year"
    for name, threshold in page.thresholds.items():
        assert isinstance(threshold.default, float | int)
        assert len(threshold.meaning) > 15, name
    assert rule.code == "TV954" or rule.refuted_by


@each_rule
def test_an_alarm_shows_a_limit_and_the_healthy_range_in_one_row(rule):
    for finding in rule.check(rule.sick()):
        if finding.severity is not Severity.INFO:
            assert any(None not in (e.limit, e.healthy) for e in finding.evidence)


def assert_evidence_agrees(rule: Rule, finding: Finding) -> None:
    """Every limit shown is the one applied to the value in the same row, and was passed."""
    known = {float(threshold.default) for threshold in rule.thresholds().values()}
    for evidence in finding.evidence:
        if evidence.limit is None:
            assert not evidence.direction, evidence
            continue
        assert isinstance(evidence.seen, float), evidence
        if evidence.direction == "above":
            assert evidence.seen >= evidence.limit, evidence
        else:
            assert evidence.direction == "below", evidence
            assert evidence.seen <= evidence.limit, evidence
        derived = bool(evidence.text)
        assert derived or evidence.limit in known, f"{evidence} is no threshold of the rule"
        if evidence.healthy is not None:
            low, high = evidence.healthy
            inside = (low is None or evidence.seen >= low) and (
                high is None or evidence.seen <= high
            )
            assert not inside, f"{evidence} is healthy and is reported"


def scaled(history: History, rng: np.random.Generator, spread: float) -> History:
    """Return the history with each statistic of each stream scaled, shares kept within 0 to 1."""
    other = History()
    other.facts, other.events = history.facts, history.events
    for stream in Stream:
        if not history.has(stream):
            continue
        statistics = STATISTICS[stream]
        values = np.stack([history.values(stream, s) for s in statistics], axis=2)
        size = (1, values.shape[1], values.shape[2])
        factors = rng.lognormal(0, spread, size if stream is Stream.SCALAR else (1, 1, size[2]))
        values = values * factors
        shares = [i for i, s in enumerate(statistics) if s.endswith(("share", "rows"))]
        values[:, :, shares] = np.clip(values[:, :, shares], 0, 1)
        steps = history.steps(stream)
        other.add(Layout(stream, 0, statistics, history.places(stream)))
        other.add(Frame(stream, 0, steps, steps * 1.0, values.astype(np.float32)))
    return other


@each_rule
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 3), st.booleans())
def test_evidence_never_contradicts_its_limit_or_its_healthy_range(rule, seed, spread, healthy):
    rng = np.random.default_rng(seed)
    history = healthy_run(seed, 120, 5, 1) if healthy else rule.sick()
    for finding in rule.check(scaled(history, rng, spread)):
        assert_evidence_agrees(rule, finding)


@each_rule
def test_what_would_refute_it_names_no_number_that_the_evidence_may_have(rule):
    assert not re.search(r"\d", rule.refuted_by)


@each_rule
def test_its_fixes_are_python(rule):
    fixes = [rule.fix, *(finding.fix for finding in rule.check(rule.sick()))]
    assert any(fixes) or rule.code in DECIDED_BY_PEOPLE
    for fix in fixes:
        for code in parts(fix).values():
            assert code.strip()
            compile(code, rule.name(), "exec")


@each_rule
def test_it_lives_in_a_file_of_its_own_that_knows_no_other_rule(rule):
    path = Path(inspect.getfile(type(rule)))
    assert path.name == f"{rule.name()}.py"
    imported = [
        node.module or ""
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
    ]
    assert not [name for name in imported if name.startswith(package.__name__)]


def healthy_run(seed: int, steps: int, layers: int, every: int) -> History:
    """A run as they mostly are: a noisy loss that falls, statistics of usual size."""
    rng = np.random.default_rng(seed)
    loss = 2.3 * np.exp(-np.arange(steps) / (steps / 3)) + 0.1
    example = Example(steps).scalars(
        loss=loss * rng.lognormal(0, 0.1, steps),
        gradient_norm=rng.lognormal(0, 0.4, steps),
        nonfinite_loss=np.zeros(steps),
        nonfinite_gradients=np.zeros(steps),
        learning_rate__0=np.full(steps, 1e-3),
    )
    shapes = {"weight": (32, 32), "bias": (32,)}
    parameters = [
        Place(f"{i}.{kind}", kind=kind, shape=shape, depth=2 * i, module=str(i))
        for i in range(layers)
        for kind, shape in shapes.items()
    ]
    modules = [
        Place(str(i) + end, kind=kind, depth=2 * i + (end != ""), nonlinearity="relu")
        for i in range(layers)
        for end, kind in (("", "Linear"), (".act", "ReLU"))
    ]
    usual = {
        Stat.MEAN: 0.0, Stat.STD: 0.2, Stat.MIN: -1.0, Stat.MAX: 1.0, Stat.ABS_MEAN: 0.15,
        Stat.L2: 3.0, Stat.ZERO_SHARE: 0.0, Stat.NONFINITE: 0.0, Stat.DISTINCT_ROWS: 1.0,
        Stat.DRIFT_RMS: 0.05, Stat.DRIFT_MEAN: 0.01, Stat.RMS: 2e-4, Stat.RATIO: 1e-3,
        Stat.SAMPLE_STD: 0.8, Stat.UNIT_MEAN_STD: 0.3, Stat.INACTIVE_SHARE: 0.1,
        Stat.DEAD_SHARE: 0.05, Stat.SATURATED_SHARE: 0.1, Stat.KURTOSIS: 1.0,
        Stat.UNCHANGED_SHARE: 0.0,
        Stat.MAGNITUDE_P05: 0.01, Stat.MAGNITUDE_P50: 0.13, Stat.MAGNITUDE_P95: 0.4,
    }  # fmt: skip
    captured = np.unique(np.r_[: min(64, steps), 0:steps:every])
    for stream, places in (
        (Stream.WEIGHT, parameters),
        (Stream.GRADIENT, parameters),
        (Stream.UPDATE, parameters),
        (Stream.ACTIVATION, modules),
    ):
        base = np.array([usual[s] for s in STATISTICS[stream]], np.float32)
        values = np.broadcast_to(base, (len(captured), len(places), len(base)))
        noisy = values * rng.lognormal(0, 0.2, values.shape)
        example.history.add(Layout(stream, 0, STATISTICS[stream], tuple(places)))
        example.history.add(Frame(stream, 0, captured, captured * 1.0, noisy.astype(np.float32)))
    return example.history


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 400), st.integers(1, 12), st.sampled_from([1, 7, 50])
)
def test_a_healthy_run_of_any_length_raises_no_alarm(seed, steps, layers, every):
    history = healthy_run(seed, steps, layers, every)
    alarms = [f for rule in all_rules() for f in rule.check(history)]
    assert [f.summary for f in alarms if f.severity is not Severity.INFO] == []
