"""The names of all measured quantities, shared by the training process and the collector.

A *stream* is a group of tensors that are measured together. A *place* is one row: a parameter, a
module, a scalar's name. A *statistic* is one column. A *frame* is the matrix places × statistics
of one step. A value that was not measured is NaN in its frame; the number of NaN and infinite
entries of a tensor is a separate statistic (`NONFINITE`), so that the two are distinct.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

CONTENT_TYPE: Final = "application/vnd.trainvitals.batch"
NEWEST_VERSION: Final = 1
"""The version that this release writes."""
OLDEST_VERSION: Final = 1
"""The oldest version that this release reads."""


class Stream(StrEnum):
    """A group of tensors that are measured together, at the same steps."""

    WEIGHT = "weight"
    """Every parameter tensor (weights, biases, norm scales, embeddings) before the step."""
    GRADIENT = "gradient"
    """The gradient of every parameter as the optimizer reads it: unscaled, after clipping."""
    UPDATE = "update"
    """What the optimizer added to every parameter in this step."""
    ACTIVATION = "activation"
    """The outputs of the watched modules in the last training forward pass of the step."""
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
    """Number of distinct rows (first dimension) divided by the number of rows, 1/rows to 1. Only
    in the first steps and for tensors with two or more dimensions and rows; otherwise NaN."""
    DRIFT_RMS = "drift_rms"
    """RMS(x_t − x_0), with x_0 the value at the first measurement. One-dimensional tensors only."""
    DRIFT_MEAN = "drift_mean"
    """mean(x_t − x_0), signed: the part of the drift that is common to all units. 1-D only."""
    MAGNITUDE_P05 = "magnitude_p05"
    """5th percentile of |x| over finite entries that are not zero: right to 7 %, from a
    sample of at most 8,192 entries, evenly spaced. NaN where all are zero, and on devices."""
    MAGNITUDE_P50 = "magnitude_p50"
    """The median of |x|, as MAGNITUDE_P05."""
    MAGNITUDE_P95 = "magnitude_p95"
    """The 95th percentile of |x|, as MAGNITUDE_P05."""
    RMS = "rms"
    """Root mean square over entries."""
    RATIO = "ratio"
    """RMS(ΔW)/RMS(W), W before the step; NaN if RMS(W) is 0. Healthy around 1e-3."""
    SAMPLE_STD = "sample_std"
    """S: standard deviation across samples (first dimension), RMS over units. A bias is the same
    for every sample, so S is the scale of the signal without the bias."""
    UNIT_MEAN_STD = "unit_mean_std"
    """M: standard deviation over units of each unit's mean over samples."""
    INACTIVE_SHARE = "inactive_share"
    """Share of a ReLU layer's units that are zero for every sample of this batch, 0 to 1."""
    DEAD_SHARE = "dead_share"
    """Share of a ReLU layer's units that were zero for every sample of the last 20 measured
    batches; NaN before the 20th batch, and for other modules."""
    SATURATED_SHARE = "saturated_share"
    """Share of entries with |tanh| > 0.99, or sigmoid outside (0.01, 0.99); NaN otherwise."""
    KURTOSIS = "kurtosis"
    """Excess kurtosis over all entries: 0 for a normal distribution."""
    UNCHANGED_SHARE = "unchanged_share"
    """Share of entries that are equal before and after the step, 0 to 1: with live gradients,
    updates that were lost to rounding."""
    VALUE = "value"
    """The value of a scalar. NaN is ambiguous here: a scalar that was not measured is NaN too;
    `Scalar.NONFINITE_LOSS` and `NONFINITE_GRADIENTS` distinguish a diverged loss from a missing
    one."""


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

MAGNITUDES: Final = (Stat.MAGNITUDE_P05, Stat.MAGNITUDE_P50, Stat.MAGNITUDE_P95)

STATISTICS: Final[dict[Stream, tuple[Stat, ...]]] = {
    Stream.WEIGHT: (*_ENTRIES, Stat.DISTINCT_ROWS, Stat.DRIFT_RMS, Stat.DRIFT_MEAN, *MAGNITUDES),
    Stream.GRADIENT: (*_ENTRIES, Stat.DISTINCT_ROWS, *MAGNITUDES),
    Stream.UPDATE: (Stat.RMS, Stat.RATIO, Stat.MEAN, Stat.UNCHANGED_SHARE),
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
"""The columns of each stream's frames, in order. Each layout contains its columns, so that the
columns of an older sender are read by name."""


class EventKind(StrEnum):
    """Kinds of events that trainvitals records itself."""

    NONFINITE_LOSS = "nonfinite_loss"
    """The text lists the operations in the loss's graph that are out of range, separated by
    commas: log, sqrt, div, exp; empty if there are none."""
    MONITOR_DEGRADED = "monitor_degraded"
    """The text is the part of trainvitals that was switched off, and the reason."""
    CHECKPOINT = "checkpoint"
    """The program saved a checkpoint after this step. The text says which, as far as is known."""
    LOSS_KIND = "loss_kind"
    """What the training loss computes, once for each different loss of a run. The text names the
    equivalent loss modules of torch that its autograd graph contains, nearest to the loss first,
    joined by " + "; empty if the graph names none. Attributes, each only where known:
    `wiring`: suspicious connections, separated by commas: `<activation>_before_<loss>`
    (softmax_before_cross_entropy, sigmoid_before_bce_with_logits, sigmoid_before_log_sigmoid),
    `no_log_softmax_before_nll_loss`, `log_of_softmax_before_nll_loss` (in two steps),
    `log_softmax_over_wrong_dimension`, `softmax_over_one_class`,
    `prediction_and_target_broadcast`, `classes_mixed_by_a_view`, `column_times_row`,
    `pairs_neither_1_nor_minus_1`, `cosines_as_logits`, `<kind>_weighted_0`;
    `reduction`: mean | sum | mean_of_sums (the elements are summed in each sample) | none;
    `last_activation`: the operation that computed the prediction, if it is an activation;
    `module`: the class of the watched loss module;
    `detached_terms`: names of the terms that pass no gradient, separated by commas;
    `prediction_shape`, `target_shape`: such as "(8, 10)"; `target_type`: such as "int64";
    `classes`: number of classes;
    `position_read`: last | earlier | labelled, the position of each sequence that the loss of a
    token model reads, if it reads one only; the last but one counts as last, and labelled is any
    position of several that all have a label;
    `scale`: the loss divided by the mean over the supervised elements, if the graph shows it and it
    is not 1;
    `activation_outside`: 1 if the last activation is computed behind the model's output;
    `positive_weight`: the smallest `pos_weight` of a binary cross entropy;
    `class_weights`: the weight of each class of a cross entropy, separated by commas, up to 64."""
    INITIALISERS = "initialisers"
    """The initialiser of each parameter before the first update, as far as it was identified.
    Attributes: parameter → an `Initialiser` in JSON."""
    NONFINITE_UPDATE = "nonfinite_update"
    """`watch(guard=…)` found gradients that are not finite before an update. The text says whether
    the update was prevented or made."""
    UNREGISTERED = "unregistered_modules"
    """Modules in a plain list, tuple, dict or callable object of a model have gradients, but are in
    no `parameters()` and in no optimizer. The text holds the names of the attributes, separated by
    commas. Attributes: those names whose modules lie in an object or in nested containers."""
    LINEAR_NETWORK = "linear_network"
    """The graph of a model's output contains linear operations and norms only, and at least three
    layers in a row. The text holds the names of their weights, separated by commas, first layer
    first."""
    ATTENTION = "attention"
    """The graph of a model's first output contains attentions, or recurrent modules that read
    tokens in both directions. The text holds the modules nearest to the attentions, separated by
    commas, first layer first. Attributes, where it is so: `reversed`: a recurrent module that reads
    tokens from the end too; `order_blind`: 1, the output is the same for tokens in any order."""
    MIXED_DIMENSIONS = "mixed_dimensions"
    """A model mixes samples, or features and positions, as the shapes of its first training pass
    show. The text says how: samples_as_times (attributes `module`, its class `kind`, `positions` in
    a sample, `batch_first` 0 or 1), view_for_transpose (the first three), softmax_over_samples
    (`shape`), parts_of_samples_joined (`shape`, `into`), each with the number of `samples`;
    features_as_positions (`module`, `kind`, `shape`, `into`)."""
    DROPPED_OUTPUT = "dropped_output"
    """The prediction of a loss is the result of a dropout. The text is the module's name, "" if it
    is not known. Attributes: `probability`; `loss`: the equivalent loss module of torch."""
    OPTIMIZER_STATE_EMPTY = "optimizer_state_empty"
    """An optimizer that keeps a state began a step without one: it was emptied since the step
    before, or the step is the first of a resumed run. The text is the optimizer's class. Attribute
    `parameters`: number of parameters with a state, before it was emptied or after the step."""
    OPTIMIZER_IDLE = "optimizer_idle"
    """An optimizer given to `watch` has not stepped; its parameters had gradients at two steps of
    another one, and nothing changed them between. The text is its class. Attributes: `optimizer`:
    its number, from 0; `parameters`: number of those with a gradient; `first`: the first one's
    name; `steps`: of the other one. Sent again, with 0 `parameters`, when it steps after all."""
    OPTIMIZER = "optimizer"
    """The hyperparameters of an optimizer before its first update in this process. The text is its
    class. Attributes: `optimizer`: its number, from 0, in the order of the first steps; `groups`:
    number of parameter groups; `<name>/<group>`: each hyperparameter of the first 32 groups, as
    `lr/0`. Those that a schedule changes are those of this step."""
    WEIGHTS_ROUNDED = "weights_rounded"
    """Float32 weights that are trained have only values of a smaller type: the program rounds them
    after its steps. Once for a run. The text is the type, bfloat16 or float16. Attribute
    `parameters`: number of parameters that were looked at. Not known on accelerators."""
    CLASS_HISTOGRAM = "class_histogram"
    """Number of target entries of each class, up to 64 classes, summed over the measured batches:
    after the 1st, the 8th and the 64th. Attributes: class number → count."""
    RESUMED = "resumed"
    """The process continues the run: this step is its first one, above 0 (`start_step`). Sent by
    rank 0."""
    ACCOUNT = "account"
    """At the end of a process: the text says why its own cost is above its share, "" if it is not.
    Attributes, if `watch(guard=)` prevented updates: `prevented`: their number; `first_step`,
    `last_step`: the steps of the first and of the last one."""
    STEP_UNFINISHED = "step_unfinished"
    """An exception ended this step. The loss, the weights and the outputs that were measured in it
    follow."""
    RUN_CHANGED = "run_changed"
    """A user changed the run at the collector. The text lists what: name, notes, tags, archived,
    unarchived, deleted, undeleted. Attribute `token`: the id of the user's token."""


class Scalar(StrEnum):
    """Names of the scalars that trainvitals measures. A user's scalar is `log/<name>`, the loss of
    another split `loss/<split>`, a value of a parameter group `<name>/<group>`, from 0, what the
    process uses of its machine `system/<name>`."""

    LOSS = "loss"
    """The training loss of the step: the mean over its micro-batches."""
    NONFINITE_LOSS = "nonfinite_loss"
    """Number of micro-batches of this step with a NaN or infinite loss."""
    GRADIENT_NORM = "gradient_norm"
    """Total L2 norm of all gradients as the optimizer reads them (unscaled, after clipping)."""
    GRADIENT_NORM_BEFORE_CLIPPING = "gradient_norm_before_clipping"
    """The norm that clip_grad_norm_ found before it clipped, unscaled; absent if it was not called
    with every gradient of the optimizer that steps."""
    GRADIENT_NORM_OF_SHARDS = "gradient_norm_of_shards"
    """In place of `GRADIENT_NORM` where parameters are sharded: the part of this rank. The total is
    the root of the sum of its squares over all ranks; a shard that n ranks hold counts 1/n."""
    NONFINITE_GRADIENTS = "nonfinite_gradients"
    """Number of parameter tensors with a non-finite gradient in this step."""
    LEARNING_RATE = "learning_rate"
    WEIGHT_DECAY = "weight_decay"
    LOSS_SCALE = "loss_scale"
    """GradScaler's factor; gradients are reported unscaled."""
    SKIPPED_STEP = "skipped_step"
    """1 if GradScaler found an overflow and skipped the update, else 0; absent without a scaler.
    Such a step has a loss and no gradients."""
    LOSS_TERM = "loss_term"
    """`loss_term/<name>`: a term of a loss given as a dict, the mean over micro-batches."""
    LOSS_OF_CONSTANT = "loss_of_constant"
    """Loss of the best prediction that ignores the input, for the targets of a sampled step's first
    loss, in its unit. Present if the loss is a sum of two to four loss functions of torch, or one
    whose constant does not follow from the moments of the targets. For the likelihood of a normal
    distribution, of the best constant mean and variance, if its targets are known."""
    LOSS_OF_TARGETS = "loss_of_targets"
    """Loss of predictions that equal the targets, in the same batch: the least loss. Only for a
    Poisson loss, and for a sum with one; without a lower bound it is absent."""
    PART_OF_LOSS = "part_of_loss"
    """`part_of_loss/<i>`: what loss function number i adds to a loss of two to four, nearest first;
    its kind is the i-th of `terms` in the event `loss_kind`. At most 16,384 entries are read."""
    PART_OF_CONSTANT = "part_of_constant"
    """`part_of_constant/<i>`: what it adds to `loss_of_constant`."""
    PART_SUPERVISED_SHARE = "part_supervised_share"
    """`part_supervised_share/<i>`: share of its elements whose masks are not zero, 0 to 1; 0 if it
    is given no elements. Present if it has a mask or no elements."""
    ERROR_WITHOUT_GRADIENT = "error_without_gradient"  # share of Σ error² at limits of the output
    ZERO_TERMS = "zero_terms"
    """Number of terms of a sampled step's first loss that the program multiplies by the whole
    number 0; from the first step on which there is one."""
    MICRO_BATCHES = "micro_batches"
    """Number of training losses of a step, if there are several."""
    PREDICTION_MIN = "prediction_min"
    """Smallest entry of the prediction that the loss function was given, in the first micro-batch
    of a sampled step; at most 16,384 entries of a tensor are read. For a cross entropy these are
    the logits, for NLLLoss the log-probabilities. NaN if an entry is."""
    PREDICTION_MAX = "prediction_max"
    PREDICTION_MEAN = "prediction_mean"
    PREDICTION_STD = "prediction_std"
    """Population standard deviation over these entries."""
    PREDICTION_ROW_SUM_MIN = "prediction_row_sum_min"
    """Smallest sum of a prediction over its classes; only for two or more classes. Both sums close
    to 1 and no negative entry: the predictions are probabilities."""
    PREDICTION_ROW_SUM_MAX = "prediction_row_sum_max"
    PREDICTED_CLASSES = "predicted_classes"
    """Number of distinct classes that are predicted, at most 1,024: the index of the largest entry
    of each sample (or position) that is read. Only for class losses and 16 or more samples."""
    PREDICTED_MAJORITY_SHARE = "predicted_majority_share"
    """Share of the most frequent class among them, 0 to 1."""
    TARGET_MIN = "target_min"
    """Smallest target entry that is supervised: not ignored and not masked; read as above."""
    TARGET_MAX = "target_max"
    TARGET_MEAN = "target_mean"
    TARGET_STD = "target_std"
    TARGET_STD_OF_OUTPUTS = "target_std_of_outputs"  # RMS over a sample's outputs, across samples
    TARGET_ROW_SUM_MAX = "target_row_sum_max"
    """Largest sum of a target over its classes; only for a cross entropy or KL divergence whose
    targets are probabilities of classes. Above 1, several classes are true at once."""
    TARGET_CLASSES = "target_classes"
    """Number of distinct classes among the supervised targets of the batch. Targets of a
    floating-point type count as classes if all are whole numbers from 0 to 63 (CPU only)."""
    TARGET_MAJORITY_SHARE = "target_majority_share"
    """Share of the most frequent class among them, 0 to 1."""
    TARGET_IN_TOKENS_SHARE = "target_in_tokens_share"
    """Share of the supervised class targets that equal the model's input token at the same place,
    0 to 1; absent if the first input is no tensor of integers with as many entries, or if another
    input is the first one shifted by one: a decoder that copies."""
    TARGET_SHIFT = "target_shift"
    """Number k of positions, −1 to 8, for which 98 % or more of the supervised class targets equal
    the first input's token k positions later: 1 for the next token, 0 for the token itself. 1 if
    it holds besides another shift or for another loss of the step; NaN if no shift holds, several
    hold, or few targets or a small vocabulary leave chance; absent if the first input is no tensor
    of integers (samples, positions). At most 2,048 targets are compared."""
    ATTENTION_AHEAD = "attention_ahead"
    """Number of the first attention in the event `attention`, from 0, in which 99 % of the
    positions see the next one, of those whose next position sees itself; NaN if none does. Only at
    the first sampled step."""
    ATTENTION_LARGEST = "attention_largest"
    """The mean over up to 64 queries, that see four positions or more, of the largest weight of
    their attention, 0 to 1, in the layer where it is largest; −1 without such queries. Only at the
    first sampled step."""
    ATTENTION_SHARPEST = "attention_sharpest"
    """Number of that layer in the event `attention`, from 0."""
    POSITIONS_READ_SHARE = "positions_read_share"
    """Share of the positions of a token model's output, logits of shape (samples, positions,
    classes), that the loss reads, 0 to 1; NaN if a token of the input is no class; absent unless
    the first input has as many integers, eight positions or more, and eight classes or more."""
    TARGET_IN_FEATURES = "target_in_features"
    """1 if one column of the model's first input, a table (samples, features), determines the
    targets linearly, else 0; absent if the input is no such table or has one column only."""
    TARGET_IN_SEQUENCE = "target_in_sequence"
    """Share of the targets that are equal to the model's first input at the same place, 0 to 1;
    absent unless both are numbers and the input has the shape (samples, times, features), of eight
    samples and times or more, and as many entries as the targets."""
    NONFINITE_TARGETS = "nonfinite_targets"
    """Number of NaN and infinite target entries that are supervised; read as above, floating-point
    targets only."""
    INPUT_MIN = "input_min"
    """Smallest entry of the model's first input in the first micro-batch of a sampled step; of a
    tensor of floating-point numbers, read as a prediction. NaN if an entry is."""
    INPUT_MAX = "input_max"
    INPUT_MEAN = "input_mean"
    INPUT_STD = "input_std"
    """Population standard deviation over these entries."""
    INPUT_LARGEST_FEATURE = "input_largest_feature"
    """Largest RMS of a column of the model's first input, if that is a table (samples, features)
    of floating-point numbers with four columns or more and at most 65,536 entries."""
    INPUT_FEATURE_SPREAD = "input_feature_spread"
    """The same divided by the median RMS of its columns; infinite if most columns are 0."""
    INPUT_FAR_VALUE = "input_far_value"
    """The smallest or largest value of a column of such a table that is repeated in it, beyond ±10,
    and furthest from the other entries of its column: a number that stands for a missing value."""
    INPUT_FAR_DISTANCE = "input_far_distance"
    """Its distance from their mean in their standard deviations; 0 without such a value."""
    NONFINITE_INPUTS = "nonfinite_inputs"
    """Number of NaN and infinite entries of the model's first input, a floating-point tensor, in
    the first micro-batch of a sampled step; absent for an input of over 1,048,576 entries."""
    INPUT_REPEATED = "input_repeated"
    """Share of up to 1,024 entries of the model's first input that equal those of the sampled step
    before, 0 to 1; 0 if the shapes differ. Also for token numbers."""
    INPUT_ROWS = "input_rows"
    """Number of rows of the model's first input, if that is a table (rows, features): of a graph,
    its nodes."""
    INPUT_TARGET_DEPENDENCE = "input_target_dependence"
    """t value of the distance correlation between the model's only input and the targets, of the
    first 256 and of the first 512 samples of the sampled steps; a standard normal number if they
    are independent, mostly above 10 if not. At most 256 entries of an input are compared; absent
    unless the input is of floating-point numbers and each sample has a target."""
    INPUT_TOKEN_SHARE = "input_token_share"  # noqa: S105 - no secret
    """Share of the most frequent token among up to 1,024 of the only input of a model with
    embeddings, token numbers of shape (samples, positions), 0 to 1; 0 if it is a `padding_idx`."""
    PADDED_TARGETS_SHARE = "padded_targets_share"
    """Share of the supervised targets whose input token is the `padding_idx` of the embeddings, 0
    to 1; for class numbers, one for each token, in the first micro-batch of a sampled step."""
    SUPERVISED_SHARE = "supervised_share"
    """Share of target entries that count in the loss, 0 to 1: not equal to ignore_index, weight
    and mask not zero; over up to eight micro-batches of a sampled step, read as above."""
    GRADIENT_NORM_BEFORE_BACKWARD = "gradient_norm_before_backward"
    """L2 norm of the gradients that exist when the first backward of a sampled step begins; 0 if
    there are none. Without zero_grad it is the gradient norm of the previous step. Absent with
    several optimizers, where gradients of one may rightly exist during the backward of another."""
    NORM_EVAL_SHARE = "norm_eval_share"
    """Share of the modules with running statistics (BatchNorm) that are in eval mode while a
    training loss is taken, 0 to 1; absent if the models have none."""
    DROPOUT_EVAL_SHARE = "dropout_eval_share"
    """The same for the modules with a dropout above 0: Dropout modules, MultiheadAttention, and
    recurrent modules of several layers."""

    STEP_TIME_S = "step_time_s"
    """Wall-clock seconds from the end of the previous step to the end of this one."""
    OVERHEAD = "overhead"
    """CPU seconds of trainvitals in the whole run, in hooks of the training thread and in its
    background threads, divided by the training time."""
    CAPTURE_TIME_S = "capture_time_s"
    """CPU seconds spent by trainvitals in the hooks of this step."""
