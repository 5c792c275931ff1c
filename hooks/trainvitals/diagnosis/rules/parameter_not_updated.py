"""TV603: a parameter has a gradient but never changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.default_share import default_share
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import Moment, at, for_each_group
from trainvitals.diagnosis.frozen_parts import frozen_as_initialised
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.initial_state import identified
from trainvitals.diagnosis.places import layer_of, rms_window, rows_named, window
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Flags, median
from trainvitals.diagnosis.untouched_modules import (
    hidden_modules,
    idle_optimizer,
    stale_evaluation,
)
from trainvitals.wire import Place, Stat, Stream

UNCHANGED = (Stat.L2, Stat.MEAN, Stat.ABS_MEAN)
"""Statistics of a weight that stay equal from frame to frame while the weight is not updated."""
_UNNAMED = frozenset({"unknown", "normal", "truncated_normal", "uniform"})
"""Names of initialisers that trained weights can have too."""
ROUNDING = 1e-5
SQUARE_OVERFLOWS = 1e19
"""RMS of a gradient whose squares exceed float32, rounded down from the root of 3.4e38."""


@dataclass(frozen=True)
class ParameterNotUpdated(Rule):
    """A parameter has a gradient, but no optimizer updates it.

    ## What it detects
    In each of the newest five captured steps, a trainable parameter has a gradient (RMS at least a
    thousandth of the median parameter's) and its values do not change: it is in no parameter
    group, or it is in one and its update is exactly zero. Or: modules in a plain list, tuple,
    dict or callable object of the model have gradients, and `model.parameters()` lacks them. Or:
    one of several optimizers given to `watch` has made no step within 30 steps of another one,
    although its parameters have gradients, and nothing else changes them. Or: the layers before
    the trained ones are frozen (`requires_grad` is False) and hold most of the entries, although
    their weights still are those of an initialiser; or so are all weight matrices of the model, and
    nothing else of it is trained but biases. Or: the newest three losses of a split other than
    training are equal to the last bit, while the training loss fell by a fifth: the model that is
    evaluated is not the one that is trained.
    ## Why it matters
    This part of the model keeps its initial values. Possible causes: a layer was replaced after
    the optimizer was built, a module is missing from the parameters given to the optimizer, the
    learning rate is 0, or half precision rounds every update to zero.
    ## Evidence
    The gradient's RMS, the update, the number of parameters, and their layers.
    ## What to do
    - Build the optimizer after the model is complete: `AdamW(model.parameters())`.
    - Add missing parameters: `optimizer.add_param_group({"params": layer.parameters()})`.
    - Keep several layers in `nn.ModuleList` or `nn.ModuleDict`, not in a list or dict.
    - Call `step()` of each optimizer.
    - Load the pretrained weights before the layers are frozen, or train these layers.
    - If an average of the weights is evaluated, update it after each `optimizer.step()`.
    - If the parameter is frozen on purpose, call `requires_grad_(False)`: that also saves its
      backward pass.
    ## When it is wrong
    A backbone that is frozen by leaving it out of the optimizer. It is only a note if the backbone
    comes before all trained layers, holds most of the entries, and the loss falls by a fifth within
    100 steps; it is an error if its weights are those of PyTorch's default initialisation.
    Gradients above 1e19, whose square overflows in Adam, are left out: they have exploded. Random
    features on purpose, whose layers are frozen as they were initialised and followed by trained
    ones; a target of the predictor of random network distillation is told apart. An optimizer that
    begins later on purpose, whose parameters have gradients before: the finding ends with its first
    step.
    ## References
    PyTorch documentation, torch.optim, "Constructing it"; Jiang et al., "Training with Confidence:
    Catching Silent Errors in Deep Learning Training with Automated Proactive Checks" (TrainCheck),
    2025, arXiv:2506.14813.
    """

    code: ClassVar[str] = "TV603"
    stage: ClassVar[Stage] = Stage.WIRING
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = frozenset(
        {"TV501", "TV806", "TV502", "TV506", "TV507", "TV701", "TV807"}
    )
    needs: ClassVar[tuple[Need, ...]] = (
        Stream.GRADIENT,
        Stream.WEIGHT,
    )
    fix: ClassVar[str] = at(
        Moment.BEFORE_TRAINING,
        "known = {id(p) for group in optimizer.param_groups for p in group['params']}\n"
        "left = [p for p in model.parameters() if p.requires_grad and id(p) not in known]\n"
        "optimizer.add_param_group({'params': left})",
    )
    refuted_by: ClassVar[str] = "The parameter's values differ between two checkpoints."

    observations: int = threshold(5, "Newest captured steps in a row without a change.")
    gradient_share_min: float = threshold(
        1e-3, "Minimum gradient RMS, as a share of the median parameter's gradient RMS."
    )
    steps_min: int = threshold(100, "Steps after which a fixed front part must have proved useful.")
    fall_min: float = threshold(
        0.2, "Fall of the loss by then, as a share of its start; less is no use of the front part."
    )
    backbone_share: float = threshold(
        0.5, "Share of all entries above which an unchanged front part counts as a frozen backbone."
    )

    matrices_min: int = threshold(
        3, "Unchanged matrices that all fit a named initialiser; one can fit by chance."
    )
    entries_min: int = threshold(64, "Entries of a matrix whose initialisation is recognised.")
    untrained_share: float = threshold(
        0.5, "Share of the entries of an unchanged front part that are as they were initialised."
    )
    uniform_tolerance: float = threshold(
        0.1, "Deviation of its largest entry and its std from those of the default, as a share."
    )

    def _frozen(self, history: History, matrices: Sequence[Place]) -> Finding:
        """Return the finding of frozen layers that still have their initial values."""
        known = identified(history)
        first = matrices[0]
        trained = [p for p in history.places(Stream.GRADIENT) if p.trainable and p.optimized]
        if any(len(p.shape) >= 2 for p in trained):
            effect = "the layers behind them are trained on random features"
        elif trained:
            kinds = " and ".join(sorted({p.kind for p in trained})).replace("_", " ")
            effect = f"nothing but parameters of the kind {kinds} is trained"
        else:
            effect = "no parameter is trained"
        layers = [layer_of(p) for p in matrices]
        parts = list(dict.fromkeys(layer.partition(".")[0] for layer in layers))
        return self.finding(
            severity=Severity.WARNING,
            where=first.name,
            since_step=int(history.steps(Stream.GRADIENT)[0]),
            summary=f"Parameter not updated: {first.name} and {len(matrices) - 1} more weights are "
            "frozen (requires_grad is False), but they still have the values of an initialiser: "
            f"{effect}.",
            evidence=(
                Evidence(
                    quantity="frozen weights that are as they were initialised",
                    seen=float(len(matrices)),
                    limit=0.0,
                    direction="above",
                    healthy=(0.0, 0.0),
                    text=", ".join(
                        f"{p.name}: {known[p.name].name}" for p in matrices[:8] if p.name in known
                    ),
                ),
                Evidence(quantity="layers", seen=", ".join(layers[:8])),
            ),
            fix=at(
                Moment.BEFORE_TRAINING,
                f"for name in {parts}:\n"
                "    model.get_submodule(name).requires_grad_(True)\n"
                "known = {id(p) for group in optimizer.param_groups for p in group['params']}\n"
                "left = [p for p in model.parameters() if p.requires_grad and id(p) not in known]\n"
                "if left:\n"
                "    optimizer.add_param_group({'params': left})",
            ),
            confidence=0.85,
            stream=Stream.WEIGHT,
            statistic=Stat.L2,
        )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding, at the first such parameter."""
        for search in (hidden_modules, idle_optimizer, stale_evaluation):
            if (seen := search(self, history)) is not None:
                yield seen
                return
        if frozen := frozen_as_initialised(history, self.backbone_share):
            yield self._frozen(history, frozen)
            return
        places = history.places(Stream.GRADIENT)
        rows = [i for i, p in enumerate(places) if p.trainable and "before_norm" not in p.flags]
        names = [places[i].name for i in rows]
        gradient = rms_window(history, Stream.GRADIENT, rows, last=self.observations)
        if len(gradient.steps) < self.observations:
            return
        nonfinite = window(
            history, Stream.GRADIENT, Stat.NONFINITE, rows, last=self.observations
        ).values
        usual = float(median(median(gradient.values)))
        with np.errstate(invalid="ignore"):
            wanted = gradient.values > self.gradient_share_min * usual
            # The update of a far smaller gradient is lost to rounding: not a wiring fault.
            wanted &= (
                gradient.values > ROUNDING * np.nanmax(gradient.values, axis=1, initial=0)[:, None]
            )
        # Adam squares the gradient in float32: above 1.8e19 the square is infinite and the update
        # zero. The gradients exploded; the parameter is wired correctly.
        wanted &= ~(gradient.values > SQUARE_OVERFLOWS)
        # A gradient scaler skips the update of a step with non-finite gradients.
        wanted &= ~(nonfinite > 0)
        stuck = wanted.all(axis=0) & self._unmoved(history, [places[i] for i in rows], names)
        if not stuck.any() or not usual > 0:
            return
        found = sorted((places[rows[i]].depth, rows[i]) for i in np.flatnonzero(stuck))
        missing = [places[row] for _, row in found]
        first = missing[0]
        left_out = not first.optimized
        if not left_out and history.facts.get("optimizer") == "LBFGS":
            return  # a converged LBFGS makes no update
        if not left_out and Course(history).converged:
            return  # updates near the minimum are lost to rounding
        severity = self._severity(history, places, missing)
        reason = "is in no parameter group" if left_out else "its update is exactly zero"
        size = float(median(gradient.values)[rows.index(found[0][1])])
        others = len(missing) - 1
        more = ""
        if others:
            more = f"; {others} more {'parameter is' if others == 1 else 'parameters are'} affected"
        yield self.finding(
            severity=severity,
            where=first.name,
            since_step=self._since(history, first),
            summary=(
                f"Parameter not updated: {first.name} has a gradient (RMS {number(size)}), but "
                f"{reason}; it has not changed in the last {self.observations} captured "
                f"steps{more}."
            ),
            evidence=(
                Evidence(
                    quantity="RMS of its gradient",
                    seen=size,
                    limit=self.gradient_share_min * usual,
                    direction="above",
                    text=f"{self.gradient_share_min:g} times the median parameter's",
                ),
                Evidence(
                    quantity="captured steps in a row without a change",
                    seen=float(self.observations),
                    limit=float(self.observations),
                    direction="above",
                    healthy=(0.0, 0.0),
                ),
                Evidence(quantity="parameters affected", seen=float(len(missing))),
                Evidence(
                    quantity="layers",
                    seen=", ".join(dict.fromkeys(layer_of(p) for p in missing[:8])),
                ),
            ),
            fix=None if left_out else for_each_group("['lr'] = 1e-3  # Adam; 0.1 for SGD"),
            confidence=0.95,
            stream=Stream.GRADIENT,
            statistic=Stat.L2,
        )

    def _unmoved(self, history: History, places: Sequence[Place], names: list[str]) -> Flags:
        """Return for each name whether its values did not change in all newest frames."""
        # Compare the weights too: an optimizer that is not watched may update them. The weights'
        # statistics do not resolve a small update, so a watched update must be exactly zero.
        still = self._all_the_same(history, Stream.WEIGHT, UNCHANGED, names)
        held = np.array([p.optimized for p in places])
        no_update = self._all_the_same(history, Stream.UPDATE, (Stat.RMS,), names, value=0.0)
        unmoved: Flags = still & (no_update | ~held)
        return unmoved

    def _all_the_same(
        self,
        history: History,
        stream: Stream,
        statistics: Sequence[Stat],
        names: list[str],
        value: float | None = None,
    ) -> Flags:
        """Return for each name whether its statistics are constant (equal to `value`, if given)."""
        same = np.zeros(len(names), bool)
        at = rows_named(history, stream, names)
        known = [(i, row) for i, row in enumerate(at) if row is not None]
        if not known:
            return same
        still = np.ones(len(known), bool)
        for statistic in statistics:
            rows = [row for _, row in known]
            seen = window(history, stream, statistic, rows, last=self.observations).values
            if len(seen) < self.observations:
                return same
            still &= (seen == (seen[:1] if value is None else value)).all(axis=0)
        same[[i for i, _ in known]] = still
        return same

    def _severity(
        self, history: History, places: Sequence[Place], missing: Sequence[Place]
    ) -> Severity:
        names = {p.name for p in missing}
        moving = [p for p in places if p.trainable and p.optimized and p.name not in names]
        if any(p.optimized for p in missing) or not moving:
            return Severity.ERROR
        entries = sum(math.prod(p.shape) for p in missing)
        everything = entries + sum(math.prod(p.shape) for p in moving)
        if max(p.depth for p in missing) < min(p.depth for p in moving):
            fixed_backbone = entries > self.backbone_share * everything
            if not fixed_backbone:
                return Severity.WARNING
            if self._untrained(history, missing) or self._as_initialised(history, missing):
                return Severity.ERROR
            course = Course(history)
            # A backbone is fixed on purpose when its features are good: then the head learns.
            judged = course.known and len(course.loss) >= self.steps_min
            useless = judged and not (course.learned(self.fall_min) or course.converged)
            return Severity.ERROR if useless else Severity.INFO
        return Severity.ERROR

    def _untrained(self, history: History, places: Sequence[Place]) -> bool:
        """Whether most entries have an initialisation of PyTorch."""
        share = default_share(
            history, places, entries_min=self.entries_min, tolerance=self.uniform_tolerance
        )
        return share > self.untrained_share

    def _as_initialised(self, history: History, places: Sequence[Place]) -> bool:
        """Whether all matrices have the scale and the distribution of a named initialiser."""
        known = identified(history)
        matrices = [
            p
            for p in places
            if p.kind == "weight" and len(p.shape) >= 2 and math.prod(p.shape) >= self.entries_min
        ]
        names = [known[p.name].name if p.name in known else "unknown" for p in matrices]
        return len(matrices) >= self.matrices_min and not _UNNAMED & {*names}

    def _since(self, history: History, place: Place) -> int:
        if not place.optimized:
            return int(history.steps(Stream.GRADIENT)[0])
        update = history.series(Stream.UPDATE, Stat.RMS, place.name)
        moved = np.flatnonzero(update.values != 0)
        at = int(moved[-1]) + 1 if len(moved) else 0
        return int(update.steps[min(at, len(update) - 1)])

    @staticmethod
    def sick() -> History:
        """Return a new last layer that is in no parameter group."""
        return _run(optimized=False, moves=False)

    @staticmethod
    def healthy() -> History:
        """Return a last layer that another optimizer updates."""
        return _run(optimized=False, moves=True)


def _run(optimized: bool, moves: bool) -> History:
    body = Place("body.weight", kind="weight", shape=(8, 8), depth=0, module="body")
    head = Place(
        "head.weight", kind="weight", shape=(4, 8), depth=1, module="head", optimized=optimized
    )
    places, n = [body, head], 12
    moving = {s: 2 + 0.01 * np.arange(n) for s in (Stat.L2, Stat.MEAN, Stat.ABS_MEAN)}
    still: dict[Stat, float] = dict.fromkeys(moving, 2.0)
    head_moves = moving if moves else still
    return (
        Example(n)
        .stream(Stream.GRADIENT, places, {p.name: {Stat.L2: 0.1} for p in places})
        .stream(
            Stream.WEIGHT,
            places,
            {"body.weight": moving, "head.weight": head_moves},
        )
        .stream(Stream.UPDATE, places, {"body.weight": {Stat.RMS: 1e-3}})
        .history
    )
