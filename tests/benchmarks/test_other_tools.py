"""The thresholds of other tools fire on both sides of their published limits."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from detection import others
from detection.others import TOOLS, flagged
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.wire import Event, Place, Stat, Stream

STEPS = 60


def kernels(stream: Stream, statistic: Stat, first, last=1.0) -> History:
    """Return the statistic of two kernels, of 8 × 8 entries each, over 60 steps."""
    places = [Place(f"{i}.weight", "weight", (8, 8), i, str(i)) for i in range(2)]
    columns = {"0.weight": {statistic: first}, "1.weight": {statistic: last}}
    return Example(STEPS).stream(stream, places, columns).history


def outputs(kind: str, statistic: Stat, value: float, nonlinearity: str = "") -> History:
    """Return the statistic of two modules; that of the second is 1."""
    places = [Place(str(i), kind, depth=i, nonlinearity=nonlinearity) for i in range(2)]
    columns = {"0": {statistic: value}, "1": {statistic: 1.0 if nonlinearity else value}}
    return Example(STEPS).stream(Stream.ACTIVATION, places, columns).history


def losses(values) -> History:
    return Example(len(values)).scalars(loss=values).history


def validated(share: float) -> History:
    return Example(STEPS).scalars(loss=1.0, loss__validation=share).history


def classes(rare: int) -> History:
    history = History()
    history.add(Event(0, 0.0, "class_histogram", "", {"0": 600.0, "1": float(rare)}))
    return history


def growing(rate: float, start: float = 1.0) -> History:
    return kernels(Stream.GRADIENT, Stat.ABS_MEAN, start * rate ** np.arange(STEPS))


FALLING = 0.9 ** np.arange(STEPS)
LIMITS = {
    "SageMaker Debugger: VanishingGradient": (
        kernels(Stream.GRADIENT, Stat.ABS_MEAN, 0.9e-7),
        kernels(Stream.GRADIENT, Stat.ABS_MEAN, 1.1e-7),
    ),
    "SageMaker Debugger: ExplodingTensor": (
        kernels(Stream.WEIGHT, Stat.NONFINITE, 1.0, 0.0),
        kernels(Stream.WEIGHT, Stat.NONFINITE, 0.0, 0.0),
    ),
    "SageMaker Debugger: DeadRelu": (
        outputs("ReLU", Stat.INACTIVE_SHARE, 0.51),
        outputs("ReLU", Stat.INACTIVE_SHARE, 0.49),
    ),
    "SageMaker Debugger: PoorWeightInitialization": (
        outputs("Linear", Stat.STD, 3.3, "relu"),
        outputs("Linear", Stat.STD, 3.0, "relu"),
    ),
    "SageMaker Debugger: LossNotDecreasing": (losses(np.ones(STEPS)), losses(FALLING)),
    "SageMaker Debugger: Overfit": (validated(1.11), validated(1.09)),
    "SageMaker Debugger: WeightUpdateRatio": (
        kernels(Stream.UPDATE, Stat.RATIO, 11.0),
        kernels(Stream.UPDATE, Stat.RATIO, 9.0),
    ),
    "SageMaker Debugger: ClassImbalance": (classes(59), classes(61)),
    "AutoTrainer: gradient vanish": (
        kernels(Stream.GRADIENT, Stat.L2, 0.9e-4),
        kernels(Stream.GRADIENT, Stat.L2, 1.1e-4),
    ),
    "AutoTrainer: gradient explode": (
        kernels(Stream.GRADIENT, Stat.L2, 71.0),
        kernels(Stream.GRADIENT, Stat.L2, 69.0),
    ),
    "AutoTrainer: dying ReLU": (
        kernels(Stream.GRADIENT, Stat.ZERO_SHARE, 0.71, 0.71),
        kernels(Stream.GRADIENT, Stat.ZERO_SHARE, 0.69, 0.69),
    ),
    "DeepDiagnosis: VanishingGradient": (
        kernels(Stream.GRADIENT, Stat.ABS_MEAN, 0.9e-7),
        kernels(Stream.GRADIENT, Stat.ABS_MEAN, 1.1e-7),
    ),
    "DeepDiagnosis: ExplodingTensor": (
        losses(np.full(STEPS, np.inf)),
        losses(FALLING),
    ),
    "DeepDiagnosis: TensorVariance": (
        kernels(Stream.WEIGHT, Stat.STD, 3.2),
        kernels(Stream.WEIGHT, Stat.STD, 3.1),
    ),
    "DeepDiagnosis: DeadNode": (
        outputs("ReLU", Stat.ZERO_SHARE, 0.71),
        outputs("ReLU", Stat.ZERO_SHARE, 0.69),
    ),
    "DeepDiagnosis: SaturatedActivation": (
        outputs("Tanh", Stat.SATURATED_SHARE, 0.51),
        outputs("Tanh", Stat.SATURATED_SHARE, 0.49),
    ),
    "TheDeepChecker: vanishing gradient": (growing(0.49), growing(0.8)),
    "TheDeepChecker: exploding gradient": (growing(2.1, 1e-30), growing(1.2, 1e-30)),
    "TheDeepChecker: numerical instability": (
        kernels(Stream.GRADIENT, Stat.NONFINITE, 1.0),
        kernels(Stream.GRADIENT, Stat.NONFINITE, 0.0, 0.0),
    ),
    "TheDeepChecker: unstable learning": (
        kernels(Stream.UPDATE, Stat.RATIO, 0.11, 0.01),
        kernels(Stream.UPDATE, Stat.RATIO, 0.09, 0.01),
    ),
    "TheDeepChecker: dead activations": (
        outputs("ReLU", Stat.INACTIVE_SHARE, 0.51),
        outputs("ReLU", Stat.INACTIVE_SHARE, 0.49),
    ),
    "TheDeepChecker: stagnating loss": (
        losses(0.96 ** (np.arange(STEPS) / 10)),
        losses(0.94 ** (np.arange(STEPS) / 10)),
    ),
    "TheDeepChecker: diverging loss": (
        losses(2.1 ** (np.arange(STEPS) / 10)),
        losses(1.9 ** (np.arange(STEPS) / 10)),
    ),
    "TheDeepChecker: fluctuating loss": (
        losses(2 + (np.arange(200) // 10 % 2)),
        losses(2 + (np.arange(200) // 50 % 2)),
    ),
}


def test_every_rule_of_every_tool_has_an_example_on_each_side():
    names = {f"{tool}: {rule}" for tool, rules in TOOLS.items() for rule in rules}
    assert {n for n in names if not n.startswith("trainpulse")} == {*LIMITS}


@pytest.mark.parametrize("name", LIMITS)
def test_a_rule_fires_beyond_its_limit_only(name):
    beyond, within = LIMITS[name]
    assert name in flagged(beyond)
    assert name not in flagged(within)


def test_an_empty_history_flags_nothing():
    assert flagged(History()) == ()


def test_trainpulse_sees_a_non_finite_loss():
    pytest.importorskip("trainpulse")
    history = Example(STEPS).scalars(loss=FALLING, nonfinite_loss=np.arange(STEPS) == 30).history
    assert others.trainpulse(history)
    assert not others.trainpulse(losses(FALLING))
