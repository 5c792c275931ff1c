"""The guides state what their runs show: small parts of the figures' studies, and the drawing.

Outliers and speed of losses are examples; tests/hooks/experiments/test_examples.py checks them.
"""

import functools
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from torch import nn

pytest.importorskip("sklearn")
GUIDES = Path(__file__).parents[2] / "docs" / "guides"
sys.path.insert(0, str(GUIDES))

import figures  # noqa: E402 - found by the line above
from studies import biases, losses, weights  # noqa: E402

drift = functools.cache(biases.drift)


def test_he_and_orthogonal_keep_the_signal_in_a_relu_stack():
    for name, kept in (("He", 0.40), ("orthogonal", 0.34)):
        S = weights.propagated(name).S
        assert S[-1] / S[0] == pytest.approx(kept, abs=0.01)


@pytest.mark.parametrize(
    ("name", "factor"),
    [("Xavier, gain 1", 1 / 2), ("PyTorch's default", 1 / 6), ("uniform, ±0.05", 0.053)],
)
def test_others_shrink_it_by_their_factor_per_layer(name, factor):
    he, S = weights.propagated("He").S, weights.propagated(name).S
    # He has the factor 1: what it loses, it loses by the likeness of the samples.
    per_layer = ((S[-1] / S[0]) / (he[-1] / he[0])) ** (1 / 19)
    assert per_layer == pytest.approx(factor**0.5, rel=0.05)


def test_ones_overflow_and_zeros_pass_nothing_and_both_keep_units_equal():
    ones, zeros = weights.propagated("ones"), weights.propagated("zeros")
    assert not np.isfinite(ones.S).all()
    assert not zeros.S.any()
    assert "TV301" in weights.propagated("ones", depth=5).codes & zeros.codes


def test_the_gradient_vanishes_under_the_default_and_not_under_he():
    he, default = (weights.propagated(name) for name in ("He", "PyTorch's default"))
    assert he.gradient_rms[-1] / he.gradient_rms[0] == pytest.approx(5.5, abs=0.2)
    assert default.gradient_rms[-1] / default.gradient_rms[0] == pytest.approx(1e6, rel=0.2)
    assert "TV101" in default.codes - he.codes


def test_tanh_wants_xavier():
    measured = {n: weights.propagated(n, nn.Tanh, weights.TANH) for n in weights.TANH}
    assert measured["Xavier, gain 5/3"].S[-1] == pytest.approx(1.09, abs=0.05)
    assert measured["PyTorch's default"].S[-1] < 1e-4
    assert "TV202" in measured["normal, std 1"].codes


def test_a_good_scale_learns_and_a_bad_one_does_not():
    names = ("He", "PyTorch's default", "zeros")
    result = weights.initialisations(names, steps=60, seeds=2)
    he, default, zeros = (result.row(name).metric for name in names)
    assert he < 1.5
    assert default == pytest.approx(np.log(10), abs=0.05)
    assert zeros == pytest.approx(np.log(10), abs=0.05)


def test_the_prior_lowers_the_first_loss():
    default, known = biases.prior(known=False), biases.prior(known=True)
    assert (default.losses[0], known.losses[0]) == pytest.approx((1.31, 0.534), abs=0.01)
    assert abs(default.losses[90:110].mean() - known.losses[90:110].mean()) < 0.02
    assert default.bias[-1].argmax() == 0


def test_the_drift_is_seen_and_ended_by_the_remedies_of_its_cause():
    runs = {name: drift(name) for name in (*biases.REMEDIES, biases.HIDDEN)}
    assert {name for name, run in runs.items() if "TV701" in run.codes} == {
        "no remedy",
        "L2 penalty",
    }
    assert runs["no remedy"].ratio[-1] == pytest.approx(18.9, abs=0.2)
    ended = ("head's bias = mean", "standardised")
    for name in ended:
        assert runs[name].ratio[-1] < 0.1
        assert runs[name].losses[-10:].mean() < 0.5
    for name in runs.keys() - ended:
        assert {"TV803", "TV704"} <= set(runs[name].codes)
        assert runs[name].losses[-10:].mean() > 30


def test_the_penalty_holds_the_bias_where_the_two_forces_are_equal():
    assert drift("L2 penalty").bias[-1] == pytest.approx(50 / 2, rel=0.05)


def test_an_l2_penalty_takes_a_share_and_an_l1_penalty_an_amount():
    none, l2, l1 = (biases.penalised(name) for name in biases.PENALTIES)
    assert none == pytest.approx(biases.OFFSETS, abs=0.01)
    assert l2 == pytest.approx(none / (1 + 8 * 0.05), abs=0.01)
    assert l1[0] == pytest.approx(none[0] - 4 * 0.1, abs=0.01)
    assert abs(l1[1:]).max() < 0.02


def test_cross_entropy_is_better_calibrated_than_mse_at_about_the_same_accuracy():
    found = [losses.calibration(name, seeds=2) for name in losses.CLASS_LOSSES]
    cross_entropy, mse = found
    assert cross_entropy.error < 0.1 < 0.7 < mse.error
    assert abs(cross_entropy.accuracy - mse.accuracy) < 0.03


def test_weights_of_rare_labels_find_them_and_spoil_the_probabilities():
    (plain, found), (weighted, found_weighted) = (
        losses.rare(weighted=w, seeds=2) for w in (False, True)
    )
    assert plain.error < 0.03 < 0.15 < weighted.error
    assert found < 0.4 < 0.8 < found_weighted


def test_softmax_twice_is_slower_than_logits():
    result = losses.pairings(steps=60, seeds=2)
    found = {(o.choice, o.seed): o.metric for o in result.outcomes}
    assert all(found["softmax twice", seed] < found["logits", seed] - 0.05 for seed in (0, 1))
    assert result.row("softmax twice").diagnosis.startswith("TV401")


def test_broadcast_targets_give_a_constant():
    right, wrong = losses.broadcast(mismatched=False), losses.broadcast(mismatched=True)
    assert np.ptp(right.predicted) > 0.8 * np.ptp(right.target)
    assert np.ptp(wrong.predicted) < 0.05 * np.ptp(wrong.target)
    assert right.error < 0.1 < 0.95 < wrong.error


def test_every_figure_has_a_file_and_every_image_of_the_pages_is_a_figure():
    names = {f"{draw.__name__.replace('_', '-')}.svg" for draw in figures.FIGURES}
    assert {path.name for path in (GUIDES / "images").iterdir()} == names
    shown = {
        name
        for page in GUIDES.glob("*.md")
        for name in re.findall(r"\]\(images/([^)]+)\)", page.read_text())
    }
    assert shown == names


@pytest.mark.parametrize("path", sorted((GUIDES / "images").iterdir()), ids=lambda p: p.stem)
def test_an_image_is_valid_loads_nothing_and_knows_the_dark_setting(path):
    text = path.read_text()
    ElementTree.fromstring(text)
    assert "prefers-color-scheme:dark" in text
    assert not re.search(r"(href|src)=|url\(|<script", text)
    assert "nan" not in text


def test_a_figure_that_is_drawn_anew_is_the_same():
    number = r"-?\d+(?:\.\d+)?"
    drawn, stored = figures.weights_tanh(), (GUIDES / "images" / "weights-tanh.svg").read_text()
    assert re.sub(number, "", drawn) == re.sub(number, "", stored)
    # Other processors round differently.
    values = [[float(n) for n in re.findall(number, text)] for text in (drawn, stored)]
    assert values[0] == pytest.approx(values[1], rel=0.05, abs=0.5)


def test_names_in_a_figure_are_escaped():
    line = figures.Line("<b>", np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    assert "<b>" not in figures.figure([figures.Panel("a & b", "x", [line])])
