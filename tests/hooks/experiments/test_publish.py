"""The result of an experiment is sent to a collector as one run."""

import msgspec
import pytest

import trainvitals
from helpers.collector import running_collector
from helpers.small_experiment import DATA, network
from trainvitals.api.schema import Experiment
from trainvitals.experiments.publish import experiment_of


@pytest.fixture(scope="module")
def result():
    choices = {"he": "he_normal", "zeros": "zeros"}
    return trainvitals.experiment(
        network, DATA, choices, steps=20, seeds=3, robustness=False, batch_size=16
    )


def test_the_collector_keeps_the_whole_result(result, tmp_path, monkeypatch):
    with running_collector(tmp_path / "collector") as collector:
        monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("TRAINVITALS_TOKEN", collector.token)
        run = result.send("small network", collector=collector.url, project="tests")
        kept = collector.get(f"/api/v1/runs/{run}").json()
    assert (kept["name"], kept["tags"], kept["state"]) == (
        "small network",
        ["experiment"],
        "finished",
    )
    assert msgspec.convert(kept["config"]["experiment"], Experiment) == experiment_of(result)


def test_a_curve_has_the_range_over_the_seeds(result):
    curve = experiment_of(result).curves[0]
    first = [outcome.curve[0][1] for outcome in result.outcomes if outcome.choice == "he"]
    assert (curve.low[0], curve.high[0]) == (min(first), max(first))
    assert curve.mean[0] == pytest.approx(sum(first) / 3)
    assert curve.seeds[0] == 3


def test_the_signal_of_zeros_is_zero_after_the_first_layer(result):
    he, zeros = experiment_of(result).signals
    assert len(he.layers) == len(zeros.layers) == 2
    assert min(he.S) > 0.1
    assert zeros.S == (0.0, 0.0)


def test_without_a_collector_it_says_what_is_missing(result, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRAINVITALS_COLLECTOR", raising=False)
    with pytest.raises(ValueError, match="There is no collector"):
        result.send("small network")
    with pytest.raises(ValueError, match="name is empty"):
        result.send(" ", collector="http://127.0.0.1:1")
