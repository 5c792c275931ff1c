"""Each example in examples/experiments.py has the outcome that its docstring and the page state."""

import importlib.util
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
FILE = Path(__file__).parents[3] / "examples" / "experiments.py"


@cache
def module():
    spec = importlib.util.spec_from_file_location("examples_experiments", FILE)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.slow  # the comparison of he and glorot in twenty layers is shorter
def test_zeros_do_not_learn_and_xavier_and_he_are_not_told_apart():
    result = module().initialisations()
    assert result.best is None
    assert set(result.tied) == {"auto", "xavier_normal", "xavier_uniform", "he_normal"}
    assert result.row("torch_default").high < result.row("he_normal").low
    zeros = result.row("zeros")
    assert not zeros.learned
    assert zeros.diagnosis == "TV301 symmetric_init"


@pytest.mark.slow  # the comparison of two losses on spam is shorter
def test_huber_beats_mse_on_clean_targets_and_mae_beats_both():
    result = module().outliers()
    mse, mae, huber = (result.row(name) for name in ("mse", "mae", "huber"))
    assert result.best == "mae"
    assert mae.high < huber.low < huber.high < mse.low


def test_binary_cross_entropy_learns_faster_than_mse():
    result = module().spam()
    assert result.best == "bce"
    assert result.row("bce").steps_to_threshold < 150
    assert result.row("mse").steps_to_threshold is None


@pytest.mark.slow  # 18 s; the other examples compare choices by the same experiment
def test_he_beats_glorot_in_twenty_relu_layers():
    result = module().deep_relu()
    assert result.best == "he"
    glorot, he, zeros = result.rows
    assert glorot.signal_ratio == pytest.approx(2**-9.5, rel=0.7)  # √½ for each of 19 layers
    assert 0.1 < he.signal_ratio < 10
    assert not zeros.learned


def test_no_initialisation_repairs_twenty_sigmoid_layers():
    result = module().deep_sigmoid()
    assert result.best is None
    assert result.reason == "No choice learned more than a constant prediction."
    assert {row.diagnosis for row in result.rows} == {"TV101 vanishing_gradient"}


def test_cross_entropy_is_better_calibrated_than_mse():
    cross_entropy, mse = module().calibration().rows
    assert cross_entropy.calibration_error < 0.15 < 0.5 < mse.calibration_error
    assert abs(cross_entropy.metric - mse.metric) < 0.05
    assert all(row.learned for row in (cross_entropy, mse))


def test_each_example_states_its_outcome():
    assert all("Outcome: " in example.__doc__ for example in module().EXAMPLES)
