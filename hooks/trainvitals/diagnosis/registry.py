"""All rules, in the order of their codes."""

from __future__ import annotations

from functools import cache

from trainvitals.diagnosis.rule import Rule
from trainvitals.diagnosis.rules.absorbed_updates import AbsorbedUpdates
from trainvitals.diagnosis.rules.amp_overflow import AmpOverflow
from trainvitals.diagnosis.rules.amp_underflow import AmpUnderflow
from trainvitals.diagnosis.rules.attention_logit_growth import AttentionLogitGrowth
from trainvitals.diagnosis.rules.bias_drift import BiasDrift
from trainvitals.diagnosis.rules.bias_regularised import BiasRegularised
from trainvitals.diagnosis.rules.class_collapse import ClassCollapse
from trainvitals.diagnosis.rules.class_imbalance import ClassImbalance
from trainvitals.diagnosis.rules.clipping_always_active import ClippingAlwaysActive
from trainvitals.diagnosis.rules.constant_or_duplicate_input import ConstantOrDuplicateInput
from trainvitals.diagnosis.rules.dead_relu import DeadRelu
from trainvitals.diagnosis.rules.dropped_records import DroppedRecords
from trainvitals.diagnosis.rules.entropy_collapse import EntropyCollapse
from trainvitals.diagnosis.rules.exploding_gradient import ExplodingGradient
from trainvitals.diagnosis.rules.gradient_noise_dominates import GradientNoiseDominates
from trainvitals.diagnosis.rules.init_activation_mismatch import InitActivationMismatch
from trainvitals.diagnosis.rules.init_scale_too_large import InitScaleTooLarge
from trainvitals.diagnosis.rules.init_scale_too_small import InitScaleTooSmall
from trainvitals.diagnosis.rules.initial_loss_anomaly import InitialLossAnomaly
from trainvitals.diagnosis.rules.label_noise import LabelNoise
from trainvitals.diagnosis.rules.learning_rate_too_high import LearningRateTooHigh
from trainvitals.diagnosis.rules.learning_rate_too_low import LearningRateTooLow
from trainvitals.diagnosis.rules.length_drift import LengthDrift
from trainvitals.diagnosis.rules.loss_divergence import LossDivergence
from trainvitals.diagnosis.rules.loss_oscillation import LossOscillation
from trainvitals.diagnosis.rules.loss_plateau import LossPlateau
from trainvitals.diagnosis.rules.loss_spike import LossSpike
from trainvitals.diagnosis.rules.loss_task_mismatch import LossTaskMismatch
from trainvitals.diagnosis.rules.loss_term_inactive import LossTermInactive
from trainvitals.diagnosis.rules.missing_nonlinearity import MissingNonlinearity
from trainvitals.diagnosis.rules.missing_zero_grad import MissingZeroGrad
from trainvitals.diagnosis.rules.monitor_degraded import MonitorDegraded
from trainvitals.diagnosis.rules.no_gradient import NoGradient
from trainvitals.diagnosis.rules.no_learning import NoLearning
from trainvitals.diagnosis.rules.no_signal import NoSignal
from trainvitals.diagnosis.rules.no_supervision import NoSupervision
from trainvitals.diagnosis.rules.non_finite_input import NonFiniteInput
from trainvitals.diagnosis.rules.non_finite_value import NonFiniteValue
from trainvitals.diagnosis.rules.output_bias_prior import OutputBiasPrior
from trainvitals.diagnosis.rules.output_range_mismatch import OutputRangeMismatch
from trainvitals.diagnosis.rules.over_regularised import OverRegularised
from trainvitals.diagnosis.rules.overfitting import Overfitting
from trainvitals.diagnosis.rules.parameter_jump import ParameterJump
from trainvitals.diagnosis.rules.parameter_not_updated import ParameterNotUpdated
from trainvitals.diagnosis.rules.rank_divergence import RankDivergence
from trainvitals.diagnosis.rules.redundant_bias import RedundantBias
from trainvitals.diagnosis.rules.reward_without_kl import RewardWithoutKl
from trainvitals.diagnosis.rules.rollout_mismatch import RolloutMismatch
from trainvitals.diagnosis.rules.saturated_activation import SaturatedActivation
from trainvitals.diagnosis.rules.schedule_ended_early import ScheduleEndedEarly
from trainvitals.diagnosis.rules.scrambled_input import ScrambledInput
from trainvitals.diagnosis.rules.silent_run import SilentRun
from trainvitals.diagnosis.rules.softmax_before_cross_entropy import SoftmaxBeforeCrossEntropy
from trainvitals.diagnosis.rules.state_not_restored import StateNotRestored
from trainvitals.diagnosis.rules.symmetric_init import SymmetricInit
from trainvitals.diagnosis.rules.target_not_scaled import TargetNotScaled
from trainvitals.diagnosis.rules.target_outliers import TargetOutliers
from trainvitals.diagnosis.rules.trivial_target import TrivialTarget
from trainvitals.diagnosis.rules.undertrained import Undertrained
from trainvitals.diagnosis.rules.unnormalised_input import UnnormalisedInput
from trainvitals.diagnosis.rules.vanishing_gradient import VanishingGradient
from trainvitals.diagnosis.rules.wrong_train_eval_mode import WrongTrainEvalMode

RULES: tuple[type[Rule], ...] = (
    VanishingGradient,
    ExplodingGradient,
    NoGradient,
    MissingZeroGrad,
    ClippingAlwaysActive,
    GradientNoiseDominates,
    NoSignal,
    DeadRelu,
    SaturatedActivation,
    AttentionLogitGrowth,
    MissingNonlinearity,
    SymmetricInit,
    InitScaleTooLarge,
    InitScaleTooSmall,
    InitActivationMismatch,
    InitialLossAnomaly,
    SoftmaxBeforeCrossEntropy,
    OutputRangeMismatch,
    LossTaskMismatch,
    NoSupervision,
    LossTermInactive,
    NoLearning,
    LossPlateau,
    LossDivergence,
    LossSpike,
    LossOscillation,
    Overfitting,
    Undertrained,
    EntropyCollapse,
    RewardWithoutKl,
    RolloutMismatch,
    LengthDrift,
    LearningRateTooHigh,
    LearningRateTooLow,
    ParameterNotUpdated,
    OverRegularised,
    WrongTrainEvalMode,
    ParameterJump,
    AbsorbedUpdates,
    StateNotRestored,
    ScheduleEndedEarly,
    BiasDrift,
    BiasRegularised,
    RedundantBias,
    OutputBiasPrior,
    UnnormalisedInput,
    ConstantOrDuplicateInput,
    TargetNotScaled,
    TargetOutliers,
    ClassImbalance,
    ClassCollapse,
    LabelNoise,
    TrivialTarget,
    ScrambledInput,
    NonFiniteValue,
    NonFiniteInput,
    AmpOverflow,
    AmpUnderflow,
    SilentRun,
    DroppedRecords,
    RankDivergence,
    MonitorDegraded,
)


@cache
def all_rules() -> tuple[Rule, ...]:
    """Return every rule with its default thresholds."""
    return tuple(rule() for rule in RULES)


def rule_by_code(code: str) -> type[Rule]:
    """Return the rule with this code, for example TV201.

    Raises:
        KeyError: no rule has this code.
    """
    return {rule.code: rule for rule in RULES}[code]
