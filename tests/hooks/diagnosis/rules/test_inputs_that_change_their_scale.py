"""TV801 reports inputs whose scale changes during the run."""

import numpy as np
import pytest

from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.unnormalised_input import UnnormalisedInput
from trainvitals.wire import Place, Stat, Stream


def findings(std, **facts):
    """Return the findings for inputs of these standard deviations, one for each step."""
    layer = Place("0", kind="Linear", depth=0, module="0")
    example = Example(len(std)).scalars(loss=2.0, input_mean=0.0, input_std=std)
    example.stream(Stream.WEIGHT, [Place("0.weight", kind="weight", shape=(8, 4), module="0",
                   module_kind="Linear")], {"0.weight": {Stat.L2: 2.0}})  # fmt: skip
    history = example.stream(Stream.ACTIVATION, [layer], {"0": {Stat.SAMPLE_STD: 0.5}}).history
    history.facts |= facts
    return [f for f in UnnormalisedInput().check(history) if "at the start" in f.summary]


@pytest.mark.parametrize("factor", [1 / 255, 255.0])
def test_a_transform_that_is_applied_again_in_each_epoch_is_named_with_its_step(factor):
    [found] = findings([1.0] * 20 + [factor] * 20)
    assert (found.since_step, found.where, found.fix) == (20, "0", "")
    assert found.evidence[0].seen == pytest.approx(factor)


@pytest.mark.parametrize(
    "std",
    [[1.0] * 20 + [0.1] * 20, [1.0] * 20 + [0.001] + [1.0] * 19, [1.0] * 39 + [0.001], [0.0] * 40],
    ids=["ten times less", "back again", "one batch", "nothing but zeros"],
)
def test_smaller_and_passing_changes_are_no_finding(std):
    assert findings(std) == []


def test_states_of_a_policy_gradient_may_grow():
    assert findings(np.geomspace(1, 1000, 40), loss_falls=0.0) == []
