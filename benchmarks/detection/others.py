"""Published thresholds of other tools, on the history that trainvitals recorded.

Comes in: the `History` of a finished run.
Goes out: `flagged`: the rules of other tools that fire at any step of it.
Promise:  the thresholds are the defaults of the sources named here; none is tuned on our cases.

What the recorded statistics do not contain is left out: raw values, accuracy, a second training.
The exceptions are approximations, which the docstrings state. trainpulse is the package itself, fed
with loss, gradient norm and learning rate; without the package its row is missing.

Sources:
  SageMaker   Amazon SageMaker Developer Guide, "List of Debugger Built-in Rules", defaults.
  AutoTrainer Zhang et al., "AUTOTRAINER: An Automatic DNN Training Problem Detection and Repair
              System", ICSE 2021; defaults of its monitor.py (β1 1e-3, β2 1e-4, β3 70, γ 0.7).
  DeepDiagnosis Wardat et al., ICSE 2022, arXiv:2112.04036; constants of its callbacks.py.
  TheDeepChecker Ben Braiek & Khomh, "Testing Feedforward Neural Networks Training Programs", TOSEM
              2023, arXiv:2204.00694; defaults of its settings.yaml.
  trainpulse  https://pypi.org/project/trainpulse, version 0.4, default configuration.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from trainvitals.diagnosis.history import History
from trainvitals.wire import EventKind, Place, Scalar, Stat, Stream

Check = Callable[[History], bool]
Values = npt.NDArray[np.float64]
PERIOD: Final = 10
"""TheDeepChecker: steps between two checks."""
WINDOW: Final = 5
"""TheDeepChecker: values of a growing or falling series."""


def flagged(history: History) -> tuple[str, ...]:
    """Return "tool: rule" for each rule that fires at any step of the run."""
    with np.errstate(all="ignore"):
        return tuple(
            f"{tool}: {rule}"
            for tool, rules in TOOLS.items()
            for rule, check in rules.items()
            if check(history)
        )


def vanishing(limit: float) -> Check:
    """Mean |gradient| of a tensor below `limit`."""
    return lambda history: bool((_stat(history, Stream.GRADIENT, Stat.ABS_MEAN) < limit).any())


def nonfinite(history: History) -> bool:
    """A NaN or infinite value in a weight, a gradient, an output or the loss."""
    streams = (Stream.WEIGHT, Stream.GRADIENT, Stream.ACTIVATION)
    counts = [_stat(history, stream, Stat.NONFINITE) for stream in streams]
    loss = history.scalar(Scalar.LOSS).values
    return (
        any(bool((count > 0).any()) for count in counts)
        or bool((history.scalar(Scalar.NONFINITE_LOSS).values > 0).any())
        or bool(np.isinf(loss).any())
    )


def inactive_relu(history: History) -> bool:
    """More than half of a ReLU layer's units are zero for every sample of a batch.

    SageMaker: active for less than 1 % of the samples; TheDeepChecker: 95 % of the outputs below
    1e-5. Both are approximated by zero for the whole batch of 32.
    """
    return bool((_stat(history, Stream.ACTIVATION, Stat.INACTIVE_SHARE) > 0.5).any())


def poor_initialisation(history: History) -> bool:
    """In the first ten steps the variance of the inputs of two ReLU layers differs by 10 times.

    Or 90 % of a tensor's gradient lie within 0.001; approximated by 3.29 standard deviations.
    """
    steps = history.steps(Stream.ACTIVATION) < 10
    before_relu = [p.nonlinearity == "relu" and p.kind != "ReLU" for p in _outputs(history)]
    variance = _stat(history, Stream.ACTIVATION, Stat.STD)[steps][:, before_relu] ** 2
    spread = variance.size and (np.nanmax(variance, 1) > 10 * np.nanmin(variance, 1)).any()
    gradient = _stat(history, Stream.GRADIENT, Stat.STD)[history.steps(Stream.GRADIENT) < 10]
    return bool(spread) or bool((3.29 * gradient < 0.001).any())


def loss_not_decreasing(history: History) -> bool:
    """The loss is not lower than ten steps before, at every tenth step."""
    loss = history.scalar(Scalar.LOSS).values[::10]
    return bool((np.diff(loss) >= 0).any())


def overfit(history: History) -> bool:
    """The validation loss exceeds the training loss by more than 10 % of it."""
    validation, loss = history.scalar("loss/validation"), history.scalar(Scalar.LOSS)
    at = np.searchsorted(loss.steps, validation.steps, side="right") - 1
    known = at >= 0
    training = loss.values[at[known]]
    return bool((validation.values[known] - training > 0.1 * training).any())


def update_ratio(history: History) -> bool:
    """RMS of an update over RMS of its weight above 10 or below 1e-8."""
    ratio = _stat(history, Stream.UPDATE, Stat.RATIO)
    return bool(((ratio > 10) | (ratio < 1e-8)).any())


def class_imbalance(history: History) -> bool:
    """The largest class has more than 10 times the targets of the smallest.

    SageMaker counts 500 targets or more; here 200 of the measured batches stand for them.
    """
    for event in history.events:
        if event.kind == EventKind.CLASS_HISTOGRAM:
            counts = np.array([float(n) for n in event.attributes.values()])
            if counts.sum() >= 200 and counts.max() > 10 * counts[counts > 0].min():
                return True
    return False


def vanishing_by_ratio(history: History) -> bool:
    """Norm of the first kernel's gradient below 1e-3 of the last one's, and below 1e-4.

    AutoTrainer reports it only if the accuracy is low too; the accuracy is not recorded.
    """
    norms = _kernel_norms(history)
    return bool(((norms[:, 0] < 1e-3 * norms[:, -1]) & (norms[:, 0] < 1e-4)).any())


def exploding_by_ratio(history: History) -> bool:
    """Norm of the first kernel's gradient above 70 times the last one's; as above."""
    norms = _kernel_norms(history)
    return bool((norms[:, 0] > 70 * norms[:, -1]).any())


def zero_gradients(history: History) -> bool:
    """At least 70 % of all gradient entries are exactly zero: a dying ReLU; as above."""
    counts = np.array([math.prod(p.shape) for p in history.places(Stream.GRADIENT)], float)
    shares = np.nan_to_num(_stat(history, Stream.GRADIENT, Stat.ZERO_SHARE))
    return bool((shares @ counts >= 0.7 * counts.sum()).any())


def tensor_variance(history: History) -> bool:
    """Variance of a weight below 1e-5 or above 10."""
    places = history.places(Stream.WEIGHT)
    weights = [p.kind == "weight" for p in places]
    variance = _stat(history, Stream.WEIGHT, Stat.STD)[:, weights] ** 2
    return bool(((variance < 1e-5) | (variance > 10)).any())


def zero_outputs(history: History) -> bool:
    """At least 70 % of a ReLU's outputs are zero."""
    relus = [p.kind == "ReLU" for p in _outputs(history)]
    return bool((_stat(history, Stream.ACTIVATION, Stat.ZERO_SHARE)[:, relus] >= 0.7).any())


def saturated(history: History) -> bool:
    """More than half of the inputs of a sigmoid or tanh are beyond ±5.

    Approximated by outputs within 0.01 of the limits: inputs beyond ±4.6, and ±2.6 for tanh.
    """
    return bool((_stat(history, Stream.ACTIVATION, Stat.SATURATED_SHARE) > 0.5).any())


def vanishing_or_falling(history: History) -> bool:
    """Mean |gradient| below 1e-6, or at most half the one before in four steps."""
    size = _checked(history, Stream.GRADIENT, Stat.ABS_MEAN)
    return bool((size < 1e-6).any()) or _changes(size, lambda rate: rate <= 0.5)


def exploding_or_growing(history: History) -> bool:
    """Mean |gradient| above 1e6, or at least twice the one before in four steps."""
    size = _checked(history, Stream.GRADIENT, Stat.ABS_MEAN)
    return bool((size > 1e6).any()) or _changes(size, lambda rate: rate >= 2)


def unstable_updates(history: History) -> bool:
    """Mean log10 of the update ratio over ten steps above −1 or below −4, or no update."""
    ratio = _stat(history, Stream.UPDATE, Stat.RATIO)[:, _kernels(history, Stream.UPDATE)]
    steps = history.steps(Stream.UPDATE) // PERIOD
    for period in np.unique(steps):
        rows = np.nan_to_num(np.log10(ratio[steps == period]), neginf=0.0)
        mean = rows.mean(axis=0)
        if ((mean > -1) | (mean < -4) | (mean == 0)).any():
            return True
    return False


def loss_stagnates(history: History) -> bool:
    """The mean loss of ten steps falls by less than 5 % in four periods in a row."""
    return _changes(_periods(history)[:, None], lambda rate: rate > 0.95)


def loss_diverges(history: History) -> bool:
    """The mean loss of ten steps at least doubles in four periods in a row."""
    return _changes(_periods(history)[:, None], lambda rate: rate >= 2)


def loss_fluctuates(history: History) -> bool:
    """The mean loss of ten steps changes its direction in more than half of up to 50 periods."""
    rises = np.sign(np.diff(_periods(history)))
    turns = (rises[1:] * rises[:-1] < 0).astype(float)
    return any(turns[max(0, end - 48) : end].mean() > 0.5 for end in range(8, len(turns) + 1))


def trainpulse(history: History) -> bool:
    """An alert of the package trainpulse; it sees loss, gradient norm and learning rate."""
    from trainpulse import Monitor  # type: ignore[import-not-found]

    monitor: Any = Monitor()
    bad = history.scalar(Scalar.NONFINITE_LOSS)
    for step in bad.steps[bad.values > 0]:
        monitor.log("loss", int(step), math.nan)
    names = {"loss": Scalar.LOSS, "grad_norm": Scalar.GRADIENT_NORM}
    rate = next((n for n in history.scalar_names() if n.startswith(Scalar.LEARNING_RATE)), "")
    for name, source in (names | {"learning_rate": rate}).items():
        series = history.scalar(source)
        for step, value in zip(series.steps, series.values, strict=True):
            monitor.log(name, int(step), float(value))
    return bool(monitor.alerts)


TOOLS: Final[dict[str, dict[str, Check]]] = {
    "SageMaker Debugger": {
        "VanishingGradient": vanishing(1e-7),
        "ExplodingTensor": nonfinite,
        "DeadRelu": inactive_relu,
        "PoorWeightInitialization": poor_initialisation,
        "LossNotDecreasing": loss_not_decreasing,
        "Overfit": overfit,
        "WeightUpdateRatio": update_ratio,
        "ClassImbalance": class_imbalance,
    },
    "AutoTrainer": {
        "gradient vanish": vanishing_by_ratio,
        "gradient explode": lambda history: nonfinite(history) or exploding_by_ratio(history),
        "dying ReLU": zero_gradients,
    },
    "DeepDiagnosis": {
        "VanishingGradient": vanishing(1e-7),
        "ExplodingTensor": nonfinite,
        "TensorVariance": tensor_variance,
        "DeadNode": zero_outputs,
        "SaturatedActivation": saturated,
    },
    "TheDeepChecker": {
        "vanishing gradient": vanishing_or_falling,
        "exploding gradient": exploding_or_growing,
        "numerical instability": nonfinite,
        "unstable learning": unstable_updates,
        "dead activations": inactive_relu,
        "stagnating loss": loss_stagnates,
        "diverging loss": loss_diverges,
        "fluctuating loss": loss_fluctuates,
    },
}
if importlib.util.find_spec("trainpulse"):
    TOOLS["trainpulse 0.4"] = {"any alert": trainpulse}


def _stat(history: History, stream: Stream, statistic: Stat) -> Values:
    """Return (captured steps, places); (0, 0) for a stream without frames."""
    if not history.has(stream):
        return np.zeros((0, len(history.places(stream))))
    return history.values(stream, statistic).astype(np.float64)


def _outputs(history: History) -> tuple[Place, ...]:
    return history.places(Stream.ACTIVATION)


def _kernels(history: History, stream: Stream) -> list[int]:
    """Return the rows of the weight matrices and kernels, in the order of the forward pass."""
    places = history.places(stream)
    rows = [i for i, p in enumerate(places) if p.kind == "weight" and len(p.shape) > 1]
    return sorted(rows, key=lambda i: (places[i].depth, i))


def _kernel_norms(history: History) -> Values:
    """Return the gradient norms of the kernels, (steps, kernels); (0, 1) without a kernel."""
    rows = _kernels(history, Stream.GRADIENT)
    if not rows or not history.has(Stream.GRADIENT):
        return np.zeros((0, 1))
    return _stat(history, Stream.GRADIENT, Stat.L2)[:, rows]


def _checked(history: History, stream: Stream, statistic: Stat) -> Values:
    """Return the values of the kernels from step `PERIOD` on."""
    values = _stat(history, stream, statistic)[:, _kernels(history, stream)]
    return values[history.steps(stream) >= PERIOD]


def _periods(history: History) -> Values:
    """Return the mean loss of each full period of ten steps."""
    loss = history.scalar(Scalar.LOSS).values.astype(np.float64)
    return loss[: len(loss) // PERIOD * PERIOD].reshape(-1, PERIOD).mean(axis=1)


def _changes(values: Values, holds: Callable[[Values], npt.NDArray[np.bool_]]) -> bool:
    """Whether `holds` is true for `WINDOW` − 1 ratios in a row of a column to the row before."""
    if len(values) < WINDOW or not values.shape[1]:
        return False
    true = holds(values[1:] / values[:-1])
    windows = np.lib.stride_tricks.sliding_window_view(true, WINDOW - 1, axis=0)
    return bool(windows.all(axis=-1).any())
