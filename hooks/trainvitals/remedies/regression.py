"""The loss of a regression, from the tails of the residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from torch import nn

from trainvitals.api.schema import Evidence
from trainvitals.remedies.advice import Alternative, Goal, LossAdvice, advice, call, filled
from trainvitals.remedies.tasks import Task

HUBER: Final = 1.345
MAD_TO_STD: Final = 1.4826
KURTOSIS_MAX: Final = 3.0
"""Above this excess kurtosis residuals are heavy-tailed."""
FAR: Final = 5.0
"""An outlier lies this many robust σ away: 0.00006 % of normal residuals do."""
OUTLIERS_MAX: Final = 0.002
OUTLIERS_MANY: Final = 0.05
SCALE_MAX: Final = 10.0
"""The limit of TV803 for the mean and the standard deviation of targets."""


def regression(task: Task, goal: Goal) -> LossAdvice:
    """Return the loss of quantities."""
    tails = _tails(task)
    evidence = [
        Evidence(
            quantity="excess kurtosis of the residuals",
            seen=tails.kurtosis,
            limit=KURTOSIS_MAX,
            direction="above",
            healthy=(None, KURTOSIS_MAX),
        ),
        Evidence(
            quantity=f"residuals beyond {FAR:g} robust standard deviations",
            seen=tails.outliers,
            limit=OUTLIERS_MAX,
            direction="above",
            healthy=(0.0, OUTLIERS_MAX),
            unit="share",
        ),
        Evidence(quantity="robust standard deviation of the residuals", seen=tails.scale),
    ]
    delta = float(f"{HUBER * tails.scale:.4g}")
    mse, mae = call("MSELoss()"), call("L1Loss()")
    huber = call(f"HuberLoss(delta={delta})")
    options = {
        "mse": (nn.MSELoss(), mse, "the mean of the targets is wanted, or their noise is normal"),
        "mae": (nn.L1Loss(), mae, "the median of the targets is wanted, or outliers are many"),
    }
    if delta > 0:
        options["huber"] = (nn.HuberLoss(delta=delta), huber, "there are outliers")
    chosen, reason = _regression_choice(tails, goal, has_delta=delta > 0)
    loss, code, _ = options.pop(chosen)
    alternatives = [Alternative(text, when) for _, text, when in options.values()]
    alternatives.append(
        Alternative(
            "loss = nn.GaussianNLLLoss()(PREDICTIONS, TARGETS, variance)",
            "the model also predicts a variance, and its uncertainty has to be calibrated",
        )
    )
    if bool((task.values > 0).all()) and tails.skewness > 2:
        alternatives.append(
            Alternative(
                "loss = nn.MSELoss()(PREDICTIONS, TARGETS.log())",
                "relative errors count: the targets are positive and skewed",
            )
        )
    if bool(((task.values >= 0) & (task.values == task.values.round())).all()):
        alternatives.append(
            Alternative(
                "loss = nn.PoissonNLLLoss()(PREDICTIONS, TARGETS)",
                "the targets are counts; the model then predicts the logarithm of the rate",
            )
        )
    mean, std = float(task.values.mean()), float(task.values.std(correction=0))
    if max(abs(mean), std) > SCALE_MAX:
        reason += (
            f" Standardise the targets first: their mean is {mean:.3g} and their standard "
            f"deviation {std:.3g}."
        )
    return advice(task, loss, code, reason, evidence, filled(task, alternatives))


@dataclass(frozen=True)
class _Tails:
    scale: float
    """Median over columns of 1.4826 · MAD; 0 if more than half of the residuals are equal."""
    kurtosis: float
    outliers: float
    """Share beyond `FAR` scales; of columns whose scale is 0, nothing counts."""
    skewness: float


def _tails(task: Task) -> _Tails:
    residuals = task.values
    if task.predictions is not None:
        residuals = residuals - task.predictions.detach().double().reshape(residuals.shape)
    centred = residuals - residuals.median(0).values
    scales = MAD_TO_STD * centred.abs().median(0).values
    far = (centred.abs() > FAR * scales) & (scales > 0)
    deviation = residuals - residuals.mean(0)
    std = deviation.square().mean(0).sqrt()
    z = (deviation / std)[:, std > 0]
    return _Tails(
        float(scales.median()),
        float(z.pow(4).mean() - 3) if z.numel() else 0.0,
        float(far.double().mean()),
        float(z.pow(3).mean()) if z.numel() else 0.0,
    )


def _regression_choice(tails: _Tails, goal: Goal, *, has_delta: bool) -> tuple[str, str]:
    is_heavy = tails.kurtosis > KURTOSIS_MAX and tails.outliers > OUTLIERS_MAX
    numbers = f"{tails.outliers:.1%} of the residuals are outliers, kurtosis {tails.kurtosis:.3g}"
    if goal == "calibration":
        return "mse", "The squared error is a proper score for the mean; bounded losses shift it."
    if not has_delta and goal == "robustness":
        return "mae", "More than half of the residuals are equal: a Huber δ cannot be estimated."
    if goal == "robustness" and tails.outliers > OUTLIERS_MANY:
        return "mae", f"Outliers are many ({numbers}): the absolute error follows the median."
    if has_delta and (goal == "robustness" or is_heavy):
        why = "Heavy tails" if is_heavy else "Outliers have a bounded gradient"
        return "huber", f"{why}: {numbers}; δ = 1.345 robust standard deviations."
    return "mse", f"The residuals have no heavy tails ({numbers})."
