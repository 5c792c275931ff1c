"""The names of everything measured: one word for one thing, on every side.

A *stream* is a family of tensors measured together. A *place* is one row of it: a parameter, a
module, a scalar's name. A *statistic* is one column. A *frame* is the matrix places × statistics
of one step. A value that was not or could not be measured is NaN in its frame; how many entries
of a tensor were NaN or infinite is a statistic of its own (`NONFINITE`), so the two never mix.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

CONTENT_TYPE: Final = "application/vnd.trainvitals.batch"
NEWEST_VERSION: Final = 1
"""The version this build writes."""
OLDEST_VERSION: Final = 1
"""The oldest version this build still reads (N − 1, once there is one)."""


class Stream(StrEnum):
    """A family of tensors that are measured together, at one cadence."""

    WEIGHT = "weight"
    """Every parameter tensor (weights, biases, norm scales, embeddings), just before the step."""
    GRADIENT = "gradient"
    """The gradient of every parameter as the optimizer reads it: unscaled, after clipping."""
    UPDATE = "update"
    """What the optimizer added to every parameter in this step."""
    ACTIVATION = "activation"
    """The outputs of the watched modules in the step's last training forward."""
    SCALAR = "scalar"
    """Single numbers of a step, by name: see `Scalar`."""


class Stat(StrEnum):
    """A statistic of one tensor in one step. Moments are over finite entries unless noted."""

    MEAN = "mean"
    STD = "std"
    """Population standard deviation over all entries."""
    MIN = "min"
    MAX = "max"
    ABS_MEAN = "abs_mean"
    """Mean of |x|."""
    L2 = "l2"
    """Euclidean norm √Σx²; the RMS is L2/√count, with count = the product of the place's shape."""
    ZERO_SHARE = "zero_share"
    """Share of entries that are exactly zero, 0 to 1."""
    NONFINITE = "nonfinite"
    """Number of NaN and infinite entries."""
    DISTINCT_ROWS = "distinct_rows"
    """Share of rows (first dimension) that differ from every other row, 1/rows to 1: distinct
    rows divided by rows. Only in the first steps and only for tensors of two or more dimensions
    and two or more rows; NaN elsewhere."""
    DRIFT_RMS = "drift_rms"
    """RMS(x_t − x_0) against the value when first seen. One-dimensional tensors only."""
    DRIFT_MEAN = "drift_mean"
    """mean(x_t − x_0), signed: how much of the drift is common to all units. 1-D only."""
    RMS = "rms"
    """Root mean square over entries."""
    RATIO = "ratio"
    """RMS(ΔW)/RMS(W), W before the step; NaN where RMS(W) is 0. Healthy around 1e-3."""
    SAMPLE_STD = "sample_std"
    """S: standard deviation across samples (first dimension), RMS over units. A bias is the same
    for every sample, so S is the scale of the signal without it."""
    UNIT_MEAN_STD = "unit_mean_std"
    """M: standard deviation over units of each unit's mean over samples."""
    INACTIVE_SHARE = "inactive_share"
    """Share of a rectifier's units that put out zero for every sample of this batch, 0 to 1."""
    DEAD_SHARE = "dead_share"
    """Share of a rectifier's units that put out zero in each of the last 20 observed batches;
    NaN before 20 were observed, and for modules that are no rectifiers."""
    SATURATED_SHARE = "saturated_share"
    """Share of entries beyond |tanh| > 0.99, or sigmoid outside (0.01, 0.99); NaN elsewhere."""
    KURTOSIS = "kurtosis"
    """Excess kurtosis over all entries: 0 for a normal distribution."""
    VALUE = "value"
    """The number itself, in the stream of scalars. Here NaN and ±Inf are the value's own: a
    scalar that was not measured in a step is absent as NaN too, and `Scalar.NONFINITE_LOSS`
    and `NONFINITE_GRADIENTS` tell a diverged loss from a missing one."""


_ENTRIES: Final = (
    Stat.MEAN,
    Stat.STD,
    Stat.MIN,
    Stat.MAX,
    Stat.ABS_MEAN,
    Stat.L2,
    Stat.ZERO_SHARE,
    Stat.NONFINITE,
)

STATISTICS: Final[dict[Stream, tuple[Stat, ...]]] = {
    Stream.WEIGHT: (*_ENTRIES, Stat.DISTINCT_ROWS, Stat.DRIFT_RMS, Stat.DRIFT_MEAN),
    Stream.GRADIENT: (*_ENTRIES, Stat.DISTINCT_ROWS),
    Stream.UPDATE: (Stat.RMS, Stat.RATIO, Stat.MEAN),
    Stream.ACTIVATION: (
        Stat.MEAN,
        Stat.STD,
        Stat.MIN,
        Stat.MAX,
        Stat.NONFINITE,
        Stat.ZERO_SHARE,
        Stat.SAMPLE_STD,
        Stat.UNIT_MEAN_STD,
        Stat.INACTIVE_SHARE,
        Stat.DEAD_SHARE,
        Stat.SATURATED_SHARE,
        Stat.KURTOSIS,
    ),
    Stream.SCALAR: (Stat.VALUE,),
}
"""The columns of each stream's frames, in order. A layout carries its own copy, so that an older
sender's columns are read by name."""


class EventKind(StrEnum):
    """Kinds of events that trainvitals records itself."""

    NONFINITE_LOSS = "nonfinite_loss"
    """The text names the operations behind the loss that were seen out of range, by comma: log,
    sqrt, div, exp; empty when none was."""
    MONITOR_DEGRADED = "monitor_degraded"
    """The text says which part of trainvitals switched itself off, and why."""


class Scalar(StrEnum):
    """Names of the scalars we measure ourselves. Users' own arrive as `log/<name>`, the loss of
    another split as `loss/<split>`, an optimizer's group as `<name>/<group>` from 0."""

    LOSS = "loss"
    """The training loss of the step: the mean over its micro-batches."""
    NONFINITE_LOSS = "nonfinite_loss"
    """Micro-batches of this step whose loss was NaN or infinite."""
    GRADIENT_NORM = "gradient_norm"
    """Total L2 norm of all gradients as the optimizer reads them (unscaled, after clipping)."""
    NONFINITE_GRADIENTS = "nonfinite_gradients"
    """Parameter tensors of this step with a non-finite gradient."""
    LEARNING_RATE = "learning_rate"
    WEIGHT_DECAY = "weight_decay"
    LOSS_SCALE = "loss_scale"
    """GradScaler's factor; gradients are reported unscaled."""
    STEPS_SKIPPED = "steps_skipped"
    """Optimizer steps skipped so far because gradients overflowed."""
    STEP_TIME_S = "step_time_s"
    """Wall-clock seconds from the end of the step before to the end of this one."""
    OVERHEAD = "overhead"
    """Own CPU seconds of the whole run so far, background threads included, over its training time:
    the one definition of own cost."""
    CAPTURE_TIME_S = "capture_time_s"
    """CPU seconds spent by trainvitals in this step, its background threads included."""
