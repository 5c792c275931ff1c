"""Which momentum the running statistics of a model have, and whether they are still the initial
ones when it is watched."""

import torch
from torch import nn

from trainvitals.capture.facts import facts_of


def facts(model):
    found = facts_of({"": model}, None)
    return {name: value for name, value in found.items() if name.startswith("norm_")}


def model(*momenta):
    return nn.Sequential(nn.Linear(4, 4), *(nn.BatchNorm1d(4, momentum=m) for m in momenta))


def test_the_smallest_and_the_largest_momentum_are_facts():
    assert facts(model(0.1, 0.01, 0.5)) == {
        "norm_momentum_min": 0.01,
        "norm_momentum_max": 0.5,
        "norm_momentum_max_module": "3",
    }


def test_a_mean_of_all_batches_and_no_statistics_are_no_momentum():
    assert not facts(model(None))
    assert not facts(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)))


def test_statistics_of_an_earlier_training_are_known():
    trained = model(0.01)
    trained(torch.randn(8, 4))
    assert facts(trained)["norm_statistics_known"] == 1


def test_statistics_without_data_are_not_read():
    with torch.device("meta"):
        assert "norm_statistics_known" not in facts(model(0.01))
    assert "norm_statistics_known" not in facts(nn.Sequential(nn.LazyBatchNorm1d(momentum=0.01)))
