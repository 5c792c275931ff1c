"""Where the code of a fix belongs in a training script, and fixes that several rules offer.

A fix consists of parts. Each part begins with a comment line that names its place, so that a reader
knows where to put the code and a program can execute it there. The names that the code can use
are in the docstring of `Finding.fix`.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Final


class Moment(StrEnum):
    """A place in a training script, as the comment line that names it."""

    BEFORE_TRAINING = "# before training, after the optimizer is created"
    STEP = "# at the start of each step"
    TRAINING_BATCH = "# for each training batch, before the forward pass"
    BATCH = "# for each batch, in training and evaluation, before the forward pass"
    LOSS = "# instead of the loss"
    CLIP = "# after backward, instead of any clipping"
    UPDATE = "# after the loss, instead of zero_grad, backward and step"


def at(moment: Moment, code: str) -> str:
    """Return `code` as a part of a fix."""
    needed = "from trainvitals import remedies\n" if "remedies." in code else ""
    return f"{moment}\n{needed}{code}"


def parts(fix: str) -> dict[Moment, str]:
    """Return the code by place, in the order of the text; {} for an empty fix.

    Raises ValueError for code in front of the first place and for a place that occurs twice.
    """
    found: dict[Moment, str] = {}
    moment: Moment | None = None
    for line in fix.splitlines():
        if line in [*Moment]:
            moment = Moment(line)
            if moment in found:
                raise ValueError(f"The fix names this place twice: {line}")
            found[moment] = ""
        elif moment is None:
            raise ValueError(f"The fix does not say where this line belongs: {line}")
        else:
            found[moment] += f"{line}\n"
    return found


def higher_rate(ratio: float, largest: float = 0.0) -> str:
    """Return the fix that raises update ratios RMS(ΔW)/RMS(W) of `ratio` to 1e-3 or more.

    The learning rate of all groups is multiplied by a power of ten, 10 to 1e5, that leaves the
    `largest` ratio at 3e-2 or below, the upper end of usual ones.
    """
    decades = math.ceil(math.log10(1e-3 / ratio)) if 0 < ratio < math.inf else 1
    if 0 < largest < math.inf:
        decades = min(decades, math.floor(math.log10(3e-2 / largest)))
    return for_each_group(f"['lr'] *= {10 ** min(5, max(1, decades))}")


def lower_rate(ratio: float) -> str:
    """Return the fix that lowers update ratios of `ratio` to 3e-2, the upper end of usual ones.

    The learning rate of all groups is divided by a number with one digit, 2 to 1000.
    """
    factor = min(1e3, max(2.0, ratio / 3e-2)) if ratio < math.inf else 1e3
    return for_each_group(f"['lr'] /= {float(f'{factor:.0e}'):.0f}")


def for_each_group(change: str) -> str:
    """Return the fix that changes all groups of the optimizer: `change` is "['lr'] /= 10"."""
    return at(Moment.BEFORE_TRAINING, f"for group in optimizer.param_groups:\n    group{change}")


def clipping(max_norm: float) -> str:
    """Return the fix that limits the total gradient norm to `max_norm`."""
    return at(
        Moment.CLIP,
        f"torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm={max_norm:.2g})",
    )


def without_activation(kind: str) -> str:
    """Return the fix that removes the output activation, a module of class nn.`kind`.

    The code raises AssertionError if the module that was registered last has another class: then
    the activation is a call inside `forward`, and a module of this class belongs to a hidden layer.
    """
    return at(
        Moment.BEFORE_TRAINING,
        "*_, (name, last) = model.named_modules()\n"
        f"assert isinstance(last, nn.{kind}), 'remove the activation in forward'\n"
        "model.set_submodule(name, nn.Identity())",
    )


def without_last(activation: str, loss: str, *, outside: bool) -> str:
    """Return the fix that removes an output activation, a module of class nn.`activation`.

    `outside`: it is an operation of the program between the model and its loss, nn.`loss`.
    """
    if outside:
        return at(Moment.LOSS, f"loss = nn.{loss}()(prediction, y)  # the output as it is")
    return without_activation(activation)


def of_output(fix: str, loss: str) -> str:
    """Return `fix` for an activation that the program computes between the model and its loss.

    The part that removes a module is left out. Without another part, the loss, nn.`loss`, takes the
    output as it is.
    """
    kept = [at(m, code.rstrip()) for m, code in parts(fix).items() if m != Moment.BEFORE_TRAINING]
    return "\n".join(kept) or without_last("", loss, outside=True)


def of_classes(classes: int) -> str:
    """Return the cross entropy of logits that have `classes` in the second or the last dimension.

    torch's cross entropy wants them in the second one.
    """
    return at(
        Moment.LOSS,
        f"if prediction.shape[1] != {classes}:\n"
        "    prediction = prediction.movedim(-1, 1)  # (samples, classes, positions)\n"
        "loss = F.cross_entropy(prediction, y)",
    )


def biases_apart(change: str) -> str:
    """Return the fix that puts biases and norms into groups of their own and changes these.

    `change` is "['weight_decay'] = 0.0"; the class and the other options of the optimizer stay.
    """
    return at(
        Moment.BEFORE_TRAINING,
        "for group in [*optimizer.param_groups]:\n"
        "    biases = [p for p in group['params'] if p.ndim < 2]\n"
        "    group['params'] = [p for p in group['params'] if p.ndim > 1]\n"
        "    if biases:\n"
        "        optimizer.add_param_group({**group, 'params': biases})\n"
        f"        optimizer.param_groups[-1]{change}",
    )


CROSS_ENTROPY: Final = at(Moment.LOSS, "loss = F.cross_entropy(prediction, y)")
"""Prediction (samples, classes), targets (samples,)."""
INITIALISE: Final = at(Moment.BEFORE_TRAINING, "remedies.initialise(model)")
"""Each layer by its fans and the nonlinearity that follows; all biases 0."""
ZERO_BACKWARD_STEP: Final = at(
    Moment.UPDATE, "optimizer.zero_grad()\nloss.backward()\noptimizer.step()"
)
BALANCED: Final = at(
    Moment.TRAINING_BATCH,
    "share = 1.0 / torch.bincount(y_train)[y_train]  # as WeightedRandomSampler\n"
    "rows = torch.multinomial(share, batch_size, replacement=True)\n"
    "x, y = x_train[rows], y_train[rows]",
)
SHUFFLED: Final = at(
    Moment.TRAINING_BATCH,
    "rows = torch.randint(len(x_train), (batch_size,))  # as DataLoader(..., shuffle=True)\n"
    "x, y = x_train[rows], y_train[rows]",
)
USUAL_LOSS: Final = at(
    Moment.LOSS,
    "loss = remedies.recommend_loss(y, prediction, 'calibration').loss(prediction, y)",
)
"""A cross entropy for classes and labels, a squared error for numbers, instead of a loss of the
program's own."""
LESS_DROPOUT: Final = at(
    Moment.BEFORE_TRAINING,
    "for module in model.modules():\n"
    "    if isinstance(module, nn.Dropout):\n"
    "        module.p = min(module.p, 0.1)",
)
RELU_FOR_SIGMOID: Final = at(
    Moment.BEFORE_TRAINING,
    "for name, module in [*model.named_modules()]:\n"
    "    if isinstance(module, nn.Sigmoid):\n"
    "        model.set_submodule(name, nn.ReLU())\n"
    "remedies.initialise(model)",
)
STANDARD_INPUT: Final = at(
    Moment.BATCH,
    "standard = (x - x_train.mean(0)) / x_train.std(0).clamp_min(1e-6)\n"
    "standard = standard.clamp(-5, 5)  # a feature that is nearly constant can be far out\n"
    "codes = ((x_train == x_train.round()) & (x_train.abs() < 1000)).all(0)\n"
    "x = standard if codes.all() else torch.where(codes, x, standard)  # categories stay",
)
STANDARD_TARGET: Final = at(
    Moment.BATCH,
    "y = (y - y_train.mean(0)) / y_train.std(0)  # predictions too",
)
REGISTER: Final = (
    "kept = owner.__dict__.pop('ATTRIBUTE')\n"
    "kind = nn.ModuleDict if isinstance(kept, dict) else nn.ModuleList\n"
    "owner.ATTRIBUTE = kind(kept)\n"
    "optimizer.add_param_group({'params': owner.ATTRIBUTE.parameters()})"
)
"""Registers the modules of `owner.ATTRIBUTE`, a plain list, tuple or dict."""
REGISTER_NESTED: Final = (
    "found, waiting = [], [owner.ATTRIBUTE]\n"
    "while waiting:\n"
    "    item = waiting.pop(0)\n"
    "    if isinstance(item, nn.Module):\n"
    "        found.append(item)\n"
    "    elif isinstance(item, (list, tuple)):\n"
    "        waiting += item\n"
    "    elif isinstance(item, dict) or hasattr(item, '__dict__'):\n"
    "        waiting += (item if isinstance(item, dict) else vars(item)).values()\n"
    "owner.ATTRIBUTE_modules = nn.ModuleList(found)\n"
    "optimizer.add_param_group({'params': owner.ATTRIBUTE_modules.parameters()})"
)
"""The same for modules in an object, or in containers inside of each other."""


def last_bias_as_targets(name: str) -> str:
    """Return code that sets the last bias to the mean of the targets."""
    return at(
        Moment.BEFORE_TRAINING,
        f"nn.init.constant_(model.get_parameter({name!r}), float(y_train.mean()))",
    )
