"""Give batches of any usual form to a model and to a loss.

Comes in: a batch, or an iterable of batches such as a DataLoader. Goes out: the loss of a pass.
A batch is the input of the model, or a pair (input, target); an input is a tensor, or a dict or a
tuple of arguments. A dict with "labels" is given to the model as a whole (Hugging Face).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from torch import Tensor, nn

LossFunction = Callable[..., Any]
PASSES: Final = 4
"""Number of passes: the rules about the initial state need up to three."""


class Pass(NamedTuple):
    """The value whose gradient is taken; `prediction` and `target` if a loss compares them."""

    value: Tensor
    prediction: object = None
    target: object = None
    is_loss: bool = True
    """False for the mean square of the output, in place of a loss."""


def batches_of(given: object) -> list[object]:
    """Return the batches of up to four passes: a single batch is repeated.

    Raises ValueError if the iterable is empty.
    """
    if isinstance(given, (Tensor, Mapping, tuple, list)):
        return [given] * PASSES
    if isinstance(given, Iterable):
        found = list(itertools.islice(iter(given), PASSES))
        if not found:
            raise ValueError("batch is empty: checkup needs at least one batch.")
        return [found[i % len(found)] for i in range(PASSES)]
    raise TypeError(
        f"batch is a {type(given).__name__}. It must be the model's input, a pair "
        "(input, target), a dict of arguments, or an iterable of these such as a DataLoader."
    )


def run(model: nn.Module, batch: object, loss: LossFunction | None) -> Pass:
    """Return the loss of one forward pass.

    Without `loss`: the loss in the model's output; a scalar output; or else the mean square of the
    output, whose gradient shows the propagation.

    Raises ValueError if the model or the loss cannot take the batch.
    """
    inputs, target = divided(batch)
    try:
        output = called(model, inputs)
    except Exception as error:
        raise ValueError(
            f"The model cannot run on this batch ({_shapes(inputs)}): "
            f"{type(error).__name__}: {error}"
        ) from error
    if loss is None:
        return _without_loss(output)
    prediction = prediction_of(output)
    if target is None:
        raise ValueError("loss= needs targets: pass batch=(input, target).")
    try:
        value = loss(prediction, target)
    except Exception as error:
        raise ValueError(
            f"The loss cannot compare the prediction ({_shapes(prediction)}) with the target "
            f"({_shapes(target)}): {type(error).__name__}: {error}"
        ) from error
    if not isinstance(value, Tensor) or not value.requires_grad:
        raise ValueError(
            "The loss does not depend on the model's parameters: it is "
            f"{type(value).__name__ if not isinstance(value, Tensor) else 'a constant tensor'}."
        )
    return Pass(value.mean() if value.numel() > 1 else value, prediction, target)


def prediction_of(output: object) -> Any:
    """Return the prediction in a model's output: a tensor, `.logits`, or the first tensor in it."""
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else None
    logits = getattr(output, "logits", logits)
    if logits is not None:
        return logits
    values = output.values() if isinstance(output, Mapping) else output
    if isinstance(values, Iterable):
        return next((v for v in values if isinstance(v, Tensor)), output)
    return output


def _without_loss(output: object) -> Pass:
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(loss, Tensor) and loss.requires_grad:
        return Pass(loss)
    if isinstance(output, (tuple, list)):  # (logits, loss)
        scalars = [v for v in output if isinstance(v, Tensor) and v.requires_grad and v.dim() == 0]
        if scalars:
            return Pass(scalars[0])
    prediction = prediction_of(output)
    if not isinstance(prediction, Tensor) or not prediction.requires_grad:
        raise ValueError(
            "The model's output contains no tensor that depends on its parameters. Pass loss= and "
            "batch=(input, target)."
        )
    if prediction.dim() == 0:
        return Pass(prediction)
    return Pass(prediction.float().square().mean(), is_loss=False)


def samples_of(batch: object) -> int:
    """Return the size of the first dimension of the first tensor in a batch; 0 without one."""
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.dim() else 0
    values = batch.values() if isinstance(batch, Mapping) else batch
    if isinstance(values, Iterable):
        return next((n for v in values if (n := samples_of(v))), 0)
    return 0


def divided(batch: object) -> tuple[object, object]:
    """Return the input and the target of a batch; None without a target."""
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    return batch, None


def called(model: nn.Module, inputs: object) -> object:
    """Call a model with its input: a tensor, a dict of arguments, or a sequence of them."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)


def _shapes(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_shapes(v)}" for key, v in value.items())
    if isinstance(value, (tuple, list)):
        return ", ".join(map(_shapes, value))
    return type(value).__name__
