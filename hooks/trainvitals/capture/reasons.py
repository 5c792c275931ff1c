"""The reasons why something is not watched, each with what to do.

Each text has at most 256 bytes, the limit of the collector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from trainvitals.wire import Stream
from trainvitals.wire.sanitise import name as storable_name

UNSEEN_STEPS: Final = 8
"""Number of steps after which missing data is reported; in a shorter run, at its end."""
NAMES_MAX: Final = 512
"""Maximum number of different names in `monitor.log` and `monitor.loss(split=)` in one run."""
LEVELS_MAX: Final = 8
"""Maximum number of levels of mappings in `monitor.log`."""
NAME_BYTES_MAX: Final = 200
"""Maximum length of such a name, without the prefix that it has on the wire."""

LOSS_IS_NO_MODULE: Final = (
    "loss=%s is not a torch.nn.Module: its calls cannot be observed. The run is watched; call "
    "`loss = monitor.loss(loss)` in the loop to record the loss."
)
VITAL_ONLY: Final = (
    "overhead=0: only the loss, the learning rate, the gradient norm and the step time are "
    "recorded. Pass every=100 or overhead=0.02 for weights, gradients, updates and activations."
)
OTHER_MODEL: Final = (
    "it contains none of the watched model's parameters, so it trains another model. Build it from "
    "this model's parameters()."
)
STEPS_COPIES: Final = (
    "the optimizer inside the wrapper updates other tensors than the model's parameters, such as "
    "32-bit copies or shards: their gradients and updates may not be measured."
)
NO_OPTIMIZER_STEPPED: Final = (
    "no torch optimizer with this model's parameters stepped, so each training loss counts as one "
    "step. Pass the torch optimizer to watch(), if there is one."
)
OPTIMIZER_IDLE: Final = (
    "the optimizer never stepped, so each training loss counts as one step. Call optimizer.step() "
    "after loss.backward(). If something else updates the weights, their gradients and updates "
    "are not measured."
)
NO_STEP: Final = (
    "no torch optimizer with this model's parameters stepped. Pass the optimizer that trains it: "
    "watch(model, optimizer)."
)
NEVER_STEPPED: Final = (
    "the optimizer never stepped: the run ended before its first step, or the loop does not call "
    "optimizer.step()."
)
FIRST_NEVER_STEPPED: Final = (
    "the first optimizer never stepped, and the steps of the run are the steps of the first one. "
    "Put an optimizer that always steps first: watch(models, [optimizer, ...])."
)
NO_LOSS: Final = (
    "no training loss was recorded in the first {steps} steps. Call `loss = monitor.loss(loss)` "
    "before optimizer.step(), or pass the loss module: watch(loss=criterion)."
)
EVAL_MODE: Final = (
    "the watched modules were only called in eval mode or without gradients. Call model.train() "
    "before training."
)
NO_FORWARD: Final = (
    "no watched module was called. Calls inside torch.compile cannot be observed; otherwise pass "
    "the model that is trained, not a copy of it."
)
COMPILED: Final = (
    "the outputs of {count} modules, {first:.60} first, cannot be observed inside torch.compile. "
    "To see them, train some steps without compiling this part of the model."
)

NORM_OF_SHARDS: Final = (
    "the parameters are sharded ({:.60}): gradient_norm_of_shards is this rank's part. The total "
    "is the root of the sum of its squares over all ranks."
)
GUARD_WITHOUT_NORM: Final = (
    "the parameters are sharded ({:.60}), and no norm over all ranks is known: updates are made. "
    "Call clip_grad_norm_ before each step, with all parameters of the optimizer; "
    'max_norm=float("inf") changes nothing.'
)
NO_NORM: Final = (
    "some parameters are sharded ({:.60}) and others are on several ranks: the part of this rank "
    "would count these several times. Each row of the gradients is measured."
)


def without_step(*, known: bool) -> str:
    """Return why losses are steps: a torch optimizer is known and idle, or none is known."""
    return OPTIMIZER_IDLE if known else NO_OPTIMIZER_STEPPED


def unseen(
    *,
    steps: int,
    loss: bool,
    optimizer_stepped: bool,
    optimizer_known: bool,
    unknown_optimizers: Sequence[str],
    activations: bool,
    eval_mode: bool,
    compiled: Sequence[str],
    full_steps: int,
) -> dict[str, str]:
    """Return name → reason for data that is missing after `steps` steps, `full_steps` of them full.

    `loss`, `optimizer_stepped` and `activations`: whether each was observed, or was switched off.
    `compiled`: the modules that were not observed in a compiled part of the model.
    """
    found = {}
    if not optimizer_stepped:
        given = ", ".join(sorted(set(unknown_optimizers)))[:60]
        contains = f"{given} contains no torch optimizer. " if given else ""
        found["optimizer"] = contains + (NEVER_STEPPED if optimizer_known else NO_STEP)
    elif not steps:
        found["steps"] = FIRST_NEVER_STEPPED
    if steps and not loss:
        found["loss"] = NO_LOSS.format(steps=steps)
    if full_steps and compiled:
        found["activations"] = COMPILED.format(count=len(compiled), first=compiled[0])
    elif full_steps and not activations:
        found["activations"] = EVAL_MODE if eval_mode else NO_FORWARD
    return found


def switched_off(*, vital_only: bool, activations: bool) -> dict[str, str | float]:
    """Return facts for the rules: the streams that are switched off → the option."""
    if vital_only:
        streams = (Stream.WEIGHT, Stream.GRADIENT, Stream.UPDATE, Stream.ACTIVATION)
        return {f"{stream}_off": "overhead=0" for stream in streams}
    return {} if activations else {f"{Stream.ACTIVATION}_off": "activations="}


def late(steps: int) -> str:
    """Return the reason for steps whose values did not arrive from a device."""
    return (
        f"{steps:,} steps were not recorded: the device did not finish measuring them before too "
        "many later steps waited, or within 2 s at the end. Raise every= or lower overhead=."
    )


def _flat(scalars: object, prefix: str = "", level: int = 1) -> Iterator[tuple[object, Any]]:
    if not isinstance(scalars, Mapping):
        raise TypeError(f"log takes a mapping of names to numbers, not {type(scalars).__name__}")
    if level > LEVELS_MAX:
        raise ValueError(f"the mapping has more than {LEVELS_MAX} levels")
    for key, value in scalars.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}/", level + 1)
        else:
            yield (f"{prefix}{key}" if prefix else key), value


class Names:
    """Limits the number of names that the user's program logs: each adds a row to later steps."""

    def __init__(self, report: Callable[[str, str], None]) -> None:
        self._report = report
        self._known: dict[str, str] = {}
        self._refused = 0

    def allowed(self, given: object) -> str | None:
        """Return the storable name; None above the limit."""
        text = given if isinstance(given, str) else str(given)
        if text in self._known:
            return self._known[text]
        if len(self._known) >= NAMES_MAX:
            self._refused += 1
            if self._refused == 1:
                self.report_all()
            return None
        self._known[text] = storable_name(text, NAME_BYTES_MAX)
        return self._known[text]

    def named(self, scalars: object) -> Iterator[tuple[str, Any]]:
        """Yield the storable names and the values of a mapping, as far as the limit allows.

        An entry that is a mapping has the names `outer/inner`. Raises TypeError if `scalars` is no
        mapping, and ValueError beyond 8 levels, as of a mapping that contains itself.
        """
        for given, value in _flat(scalars):
            if (name := self.allowed(given)) is not None:
                yield name, value

    def report_all(self) -> None:
        """Report the number of values that were left out, if any."""
        if self._refused:
            self._report(
                "log",
                f"at most {NAMES_MAX} different names are recorded; {self._refused:,} values of "
                "further names were left out. Use the same names at every step.",
            )
