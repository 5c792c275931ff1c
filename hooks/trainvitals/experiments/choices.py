"""What an experiment varies: the built-in choices, and those that a user gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from trainvitals.experiments.form import Form
from trainvitals.remedies.advice import SMOOTHING
from trainvitals.remedies.initialisation import initialise
from trainvitals.remedies.strategies import PARAMETERS
from trainvitals.remedies.tasks import IGNORED

KINDS: Final = ("initialisation", "loss", "learning_rate")
STRATEGIES: Final = (
    "auto",
    "xavier_normal",
    "xavier_uniform",
    "he_normal",
    "torch_default",
    "zeros",
)
GRID: Final = tuple(10 ** (k / 2) for k in range(-3, 4))
"""Factors of the learning rate: half decades from 0.03 to 32."""
HUBER_DELTA: Final = 1.345
"""In standard deviations; 95 % efficiency on normal residuals (Huber 1964)."""


@dataclass(frozen=True)
class Choice:
    """One of the alternatives. A field that is None is the same for all choices."""

    name: str
    initialiser: str | Callable[[nn.Module], object] | None = None
    """A strategy of `remedies.initialise`, or a function of the model."""
    loss: nn.Module | None = None
    learning_rate: float | None = None

    def initialise(self, model: nn.Module) -> None:
        """Initialise the model in place. Raises ValueError if the function fails."""
        if self.initialiser is None:
            return
        if isinstance(self.initialiser, str):
            # Gain 1, as in Glorot & Bengio and in torch.nn.init: with the gain of the rectifier,
            # Xavier and He are the same in square layers.
            if self.initialiser.startswith("xavier"):
                initialise(model, self.initialiser, gain=1.0)
            else:
                initialise(model, self.initialiser)
            return
        try:
            self.initialiser(model)
        except Exception as error:
            raise ValueError(
                f"The choice {self.name!r} is taken as a function that initialises the model, and "
                f"it failed: {type(error).__name__}: {error}. A loss must be a module."
            ) from error


class SigmoidMSELoss(nn.Module):
    """The mean squared error of the sigmoid of the logits (the Brier score)."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits and labels of the same shape."""
        return nn.functional.mse_loss(prediction.sigmoid(), target)


class SoftmaxMSELoss(nn.Module):
    """The mean squared error of the softmax of the logits."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (n, classes, …) and indices (n, …) or shares (n, classes)."""
        logits = prediction.movedim(1, -1)
        if not target.is_floating_point():
            kept = target != IGNORED
            logits, target = logits[kept], nn.functional.one_hot(target[kept], logits.shape[-1])
        return nn.functional.mse_loss(logits.softmax(-1), target.to(logits.dtype))


def losses_of(form: Form) -> dict[str, nn.Module]:
    """Return the built-in losses of a task; the first is the default of other experiments."""
    if form.kind == "regression":
        huber = nn.HuberLoss(delta=HUBER_DELTA * form.sigma)
        return {"mse": nn.MSELoss(), "mae": nn.L1Loss(), "huber": huber}
    if form.kind in ("binary", "multi_label"):
        return {"bce": nn.BCEWithLogitsLoss(), "mse": SigmoidMSELoss()}
    return {
        "cross_entropy": nn.CrossEntropyLoss(),
        "label_smoothing": nn.CrossEntropyLoss(label_smoothing=SMOOTHING),
        "mse": SoftmaxMSELoss(),
    }


def choices_of(vary: object, form: Form, learning_rate: float) -> tuple[Choice, ...]:
    """Return the choices. Raises TypeError or ValueError for a choice of no known kind."""
    if isinstance(vary, Mapping):
        found = tuple(_given(str(name), value) for name, value in vary.items())
    elif vary == "initialisation":
        found = tuple(Choice(name, initialiser=name) for name in STRATEGIES)
    elif vary == "loss":
        found = tuple(Choice(name, loss=loss) for name, loss in losses_of(form).items())
    elif vary == "learning_rate":
        rates = [learning_rate * factor for factor in GRID]
        found = tuple(Choice(f"{rate:.3g}", learning_rate=rate) for rate in rates)
    else:
        raise ValueError(
            f"vary is {vary!r}; expected {', '.join(map(repr, KINDS))} or a dict of choices."
        )
    if len(found) < 2:
        raise ValueError(f"vary has {len(found)} choices; expected at least 2 to compare.")
    return found


def _given(name: str, value: Any) -> Choice:
    if isinstance(value, nn.Module):
        return Choice(name, loss=value)
    if isinstance(value, type):
        raise TypeError(
            f"The choice {name!r} is the class {value.__name__}; pass an object: "
            f"{value.__name__}()."
        )
    if isinstance(value, str):
        if value not in PARAMETERS or value == "constant":
            raise ValueError(
                f"The choice {name!r} is {value!r}, which is no strategy of remedies.initialise: "
                f"{', '.join(s for s in PARAMETERS if s != 'constant')}."
            )
        return Choice(name, initialiser=value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Choice(name, learning_rate=checked_rate(f"The choice {name!r}", value))
    if callable(value) and not isinstance(value, torch.Tensor):
        return Choice(name, initialiser=value)
    raise TypeError(
        f"The choice {name!r} is a {type(value).__name__}; expected a loss module, a learning "
        "rate, the name of a strategy, or a function that initialises the model."
    )


def checked_rate(what: str, value: object) -> float:
    """Return a learning rate. Raises ValueError unless it is finite and greater than 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what} is a {type(value).__name__}; expected a learning rate.")
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"{what} is {value}; a learning rate must be finite and greater than 0.")
    return float(value)
