"""TV103: parameters that the optimizer holds never get a gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import ZERO_BACKWARD_STEP, Moment, at
from trainvitals.diagnosis.history import History, Steps
from trainvitals.diagnosis.idle_parts import are_alternatives, is_unused_in_last
from trainvitals.diagnosis.optimizer_parts import idle_parts
from trainvitals.diagnosis.places import layer_of, rows_named, window
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Flags, trailing_run
from trainvitals.diagnosis.supervision import DOWNSTREAM
from trainvitals.diagnosis.zero_gradients import zero_gradients
from trainvitals.wire import Place, Scalar, Stat, Stream

_UNFROZEN = at(
    Moment.BEFORE_TRAINING,
    "for module in model.modules():\n"
    "    if vars(module).pop('requires_grad', False):\n"
    "        module.requires_grad_(True)\n"
    "known = {id(p) for group in optimizer.param_groups for p in group['params']}\n"
    "if new := [p for p in model.parameters() if p.requires_grad and id(p) not in known]:\n"
    "    optimizer.add_param_group({'params': new})",
)
MEASURED_MAX = 256
"""Newest measured steps in which the first step without a gradient is searched."""


@dataclass(frozen=True)
class NoGradient(Rule):
    """A part of the model is in the optimizer and never gets a gradient.

    ## What it detects
    - Parameters with `requires_grad`, in the optimizer, whose `.grad` is None in each of the newest
      three measured steps, although their module ran in these steps and other parameters had a
      gradient. If it is not known that the module ran: in each of the newest 20.
    - No parameter has a gradient when the optimizer steps, in three measured steps.
    - The output layer is frozen, and every other parameter is trained.
    - A module has the attribute `requires_grad = True`, and a parameter of it is frozen: the
      attribute of a module has no effect.
    - All gradients of a layer were exactly 0 in each measured step, 20 or more, although it ran and
      its outputs differ between samples, and others have a gradient: the loss does not depend on
      it. Not before a layer whose units are all dead. This is a warning for small layers too, such
      as the scores of an attention whose softmax is over a single entry.
    - The gradients of two or more matrices or embeddings were exactly 0 in each of these steps, and
      so are their weights: in a product of two factors of zeros, neither gets a gradient.
    - With several optimizers: all parameters of a child module, in an optimizer that stepped in 20
      measured steps or more, never had a gradient (`.grad` is None), although the module ran: a
      generator whose samples are detached in its own loss too.
    ## Why it matters
    These parameters keep their initial values: the graph is cut between them and the loss
    (`.detach()`, `.data`, `torch.no_grad()`, NumPy), or nothing uses their output. The rest of the
    model learns on random features, and the loss can still fall.
    ## Evidence
    The share of the trained entries without a gradient, the measured steps, and the layers.
    ## What to do
    - Remove what cuts the graph behind the last layer without a gradient.
    - Call `loss.backward()` between `optimizer.zero_grad()` and `optimizer.step()`.
    - If a part is unused or frozen on purpose, leave it out of the optimizer.
    - Check the dimension of a softmax, and initialise at most one factor of a product with zeros.
    - There is no code for a graph that is cut: the cut is a line of your program.
    ## When it is wrong
    A small part whose gradients are None (the pooler of a pretrained encoder) is a note, unless it
    is all that comes before the first layer with a gradient; so is a part of the last block of a
    list, such as the residual layer of a WaveNet, if the same part of the others has a gradient; so
    are experts that are not called while others of the same list are. With several optimizers a
    part whose optimizer has not stepped yet is left out, and so is one that runs under `no_grad`.
    Gradients that the program sets to 0 on purpose, to freeze a layer.
    ## References
    PyTorch documentation, "Autograd mechanics"; Jiang et al., "Training with Confidence"
    (TrainCheck), 2025, arXiv:2506.14813.
    """

    code: ClassVar[str] = "TV103"
    stage: ClassVar[Stage] = Stage.WIRING
    before_training: ClassVar[bool] = True
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = DOWNSTREAM | {"TV603"}
    needs: ClassVar[tuple[Need, ...]] = (Stream.UPDATE,)
    fix: ClassVar[str] = ""
    refuted_by: ClassVar[str] = "Each p.grad is a tensor between loss.backward() and zero_grad."

    observations: int = threshold(3, "Newest measured steps without a gradient.")
    observations_unseen: int = threshold(20, "The same for modules that were not seen to run.")
    share_error: float = threshold(
        0.2, "Share of the entries in the optimizer above which the training is broken."
    )
    share_warning: float = threshold(
        0.05, "Share of the entries above which it is a warning; below it is a note."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the part without a gradient, or for a frozen output layer."""
        if names := str(history.facts.get("requires_grad_attributes", "")):
            yield self._attribute(names.split(","))
            return
        if float(history.facts.get("optimizers", 1)) > 1:
            yield from self._idle(history)
            return
        places = history.places(Stream.GRADIENT)
        rows = [i for i, p in enumerate(places) if p.trainable and p.optimized]
        steps, absent = self._absent(history, [places[i].name for i in rows], rows)
        if len(steps) < self.observations:
            return
        owned = [places[i] for i in rows]
        newest = absent[-self.observations :]
        if newest.all():
            first = _first_step(steps, absent)
            yield from self._nowhere(history, owned, int(steps[-self.observations]), first)
            return
        ran = self._ran(history, owned, steps[-self.observations :])
        found: Flags = np.all(newest, axis=0) & ran
        seen = bool(found.any())
        is_known = len(steps) >= self.observations_unseen
        lasting = np.all(absent[-self.observations_unseen :], axis=0) & is_known
        found = found if seen else lasting
        start = _cut_off_start(owned, np.all(newest, axis=0), ran, lasting & ~ran)
        found = found | start
        if found.any():
            first = _first_step(steps, absent[:, found])
            yield self._part(owned, found, first, seen=seen, is_start=bool(start.any()))
        elif (head := self._frozen_output(places, newest)) is not None:
            yield self._frozen(head, places, int(steps[0]))
        else:
            yield from self._zero(history, owned, rows)

    def _idle(self, history: History) -> Iterator[Finding]:
        """Yield a finding of a part that one of several optimizers steps without a gradient."""
        idle = idle_parts(history, self.observations_unseen)
        if idle is None or len(idle.steps) < self.observations_unseen:
            return
        ran = self._ran(history, idle.owned, idle.steps[-self.observations :])
        layers = np.array([len(p.shape) >= 2 for p in idle.owned])
        if (idle.found & ran & layers).any():
            yield self._part(
                idle.owned, idle.found, int(idle.steps[0]), seen=True, is_start=False, is_long=True
            )

    def _zero(
        self, history: History, owned: Sequence[Place], rows: Sequence[int]
    ) -> Iterator[Finding]:
        """Yield a finding of layers whose gradients were exactly 0 in all measured steps."""
        zero = zero_gradients(history, owned, rows, self.observations_unseen)
        if zero is not None:
            yield self._part(
                owned, zero.found, zero.since, seen=True, is_start=False, zero=zero.reason
            )

    def _absent(
        self, history: History, names: Sequence[str], rows: Sequence[int]
    ) -> tuple[Steps, Flags]:
        """Return the newest steps and where a gradient was absent (steps, rows).

        Absent, not unmeasured: the update was measured, and it was exactly zero.
        """
        n = max(self.observations_unseen, MEASURED_MAX)
        seen = window(history, Stream.GRADIENT, Stat.NONFINITE, rows, last=n)
        at = rows_named(history, Stream.UPDATE, names)
        known = [row for row in at if row is not None]
        if len(known) != len(rows) or not rows:
            return seen.steps[:0], np.zeros((0, len(rows)), bool)
        updates = window(history, Stream.UPDATE, Stat.RMS, known, last=n)
        if not np.array_equal(updates.steps, seen.steps):
            return seen.steps[:0], np.zeros((0, len(rows)), bool)
        absent: Flags = np.isnan(seen.values) & (updates.values == 0)
        return seen.steps, absent

    def _ran(self, history: History, places: Sequence[Place], steps: Steps) -> Flags:
        """Return for each parameter whether its module returned an output in each of `steps`."""
        outputs = history.places(Stream.ACTIVATION)
        captured = history.steps(Stream.ACTIVATION)
        ran = np.zeros(len(places), bool)
        at = np.searchsorted(captured, steps)
        if len(captured) == 0 or (at >= len(captured)).any() or (captured[at] != steps).any():
            return ran
        measured = ~np.isnan(history.values(Stream.ACTIVATION, Stat.MEAN)[at])
        always = np.flatnonzero(np.all(measured, axis=0))
        modules = {outputs[i].module or outputs[i].name for i in always}
        ran[:] = [p.module in modules for p in places]
        return ran

    def _nowhere(
        self, history: History, places: Sequence[Place], newest: int, since: int
    ) -> Iterator[Finding]:
        if len(history.scalar(Scalar.LOSS)) < self.observations:
            return
        skipped = history.scalar(Scalar.SKIPPED_STEP).since(newest)
        if (skipped.values > 0).any():
            return  # a step that the gradient scaler skips has no gradients
        yield self.finding(
            severity=Severity.ERROR,
            since_step=since,
            summary=f"No gradient: none of the {len(places)} parameters in the optimizer had a "
            f"gradient when it stepped, in the last {self.observations} measured steps.",
            evidence=(self._share(1.0), self._steps()),
            fix=ZERO_BACKWARD_STEP,
            stream=Stream.GRADIENT,
            statistic=Stat.L2,
        )

    def _part(
        self,
        places: Sequence[Place],
        found: Flags,
        since: int,
        *,
        seen: bool,
        is_start: bool,
        zero: str = "",
        is_long: bool = False,
    ) -> Finding:
        missing = [p for p, f in zip(places, found, strict=True) if f]
        trained = [p for p, f in zip(places, found, strict=True) if not f]
        share = _entries(missing) / max(1, _entries(places))
        if share >= self.share_error:
            severity = Severity.ERROR if seen else Severity.WARNING
        else:
            much = share >= self.share_warning or is_start or bool(zero)
            severity = Severity.WARNING if seen and much else Severity.INFO
        idle = (bool(zero) or not seen) and are_alternatives(missing, trained)
        if idle or is_unused_in_last(missing, trained):
            severity = Severity.INFO
        # The graph is cut behind the last layer without a gradient before one that has one.
        last = max((p.depth for p in trained), default=-1)
        before = [p for p in missing if p.depth <= last] or missing
        cut = max(before, key=lambda p: p.depth)
        is_short = seen and not (zero or is_long)
        observations = self.observations if is_short else self.observations_unseen
        others = len(missing) - 1
        more = f", and {others} more" if others else ""
        whose = ("their modules", "were") if others else ("its module", "was")
        ran = f"although {whose[0]} ran"
        if not seen:
            ran = f"and {whose[0]} {whose[1]} not seen to run"
        return self.finding(
            severity=severity,
            where=layer_of(cut),
            since_step=since,
            summary=f"No gradient: {cut.name}{more} ({number(100 * share, 2)} % of the entries in "
            f"the optimizer) had {'one of exactly 0' if zero else 'none'} in the last "
            f"{observations} measured steps, {ran}{zero}.",
            evidence=(
                self._share(share),
                self._steps(observations),
                Evidence(quantity="parameters without a gradient", seen=float(len(missing))),
                Evidence(
                    quantity="layers",
                    seen=", ".join(list(dict.fromkeys(layer_of(p) for p in missing))[:8]),
                ),
            ),
            stream=Stream.GRADIENT,
            statistic=Stat.L2,
        )

    def _attribute(self, names: Sequence[str]) -> Finding:
        first = "the model" if names[0] == "." else names[0]
        return self.finding(
            severity=Severity.ERROR,
            where="" if names[0] == "." else names[0],
            since_step=0,
            summary=f"No gradient: requires_grad = True was set on {first}, as an attribute "
            f"(modules like this: {len(names)}), which leaves the parameters frozen.",
            evidence=(Evidence(quantity="modules with this attribute", seen=float(len(names))),),
            fix=_UNFROZEN,
            stream=Stream.GRADIENT,
            statistic=Stat.L2,
        )

    def _share(self, share: float) -> Evidence:
        return Evidence(
            quantity="share of the optimizer's entries without a gradient",
            seen=share,
            limit=0.0,
            direction="above",
            healthy=(0.0, 0.0),
            unit="share",
            text="each parameter in the optimizer gets a gradient",
        )

    def _steps(self, observations: int | None = None) -> Evidence:
        seen = float(observations or self.observations)
        return Evidence(
            quantity="measured steps in a row", seen=seen, limit=seen, direction="above"
        )

    def _frozen_output(self, places: Sequence[Place], newest: Flags) -> Place | None:
        """Return the weight of the output layer if it and its bias alone are frozen."""
        heads = [p for p in places if "output" in p.flags and p.kind == "weight"]
        if len(heads) != 1 or heads[0].trainable or newest.any():
            return None
        body = [p for p in places if p.module != heads[0].module]
        trained = all(p.trainable and p.optimized for p in body)
        matrices = sum(p.kind == "weight" and len(p.shape) >= 2 for p in body)
        return heads[0] if trained and matrices >= 1 else None

    def _frozen(self, head: Place, places: Sequence[Place], since: int) -> Finding:
        frozen = [p for p in places if p.module == head.module]
        return self.finding(
            severity=Severity.WARNING,
            where=layer_of(head),
            since_step=since,
            summary=f"No gradient: the output layer {layer_of(head)} is frozen (requires_grad is "
            f"False) since step {since}, and all {len(places) - len(frozen)} other parameters are "
            "trained.",
            evidence=(
                Evidence(
                    quantity="frozen parameters of the output layer",
                    seen=float(len(frozen)),
                    limit=0.0,
                    direction="above",
                    healthy=(0.0, 0.0),
                    text="a new output layer is trained",
                ),
                Evidence(quantity="trained parameters", seen=float(len(places) - len(frozen))),
            ),
            fix=at(
                Moment.BEFORE_TRAINING,
                f"layer = model.get_submodule({layer_of(head)!r}).requires_grad_(True)\n"
                "known = {id(p) for group in optimizer.param_groups for p in group['params']}\n"
                "if new := [p for p in layer.parameters() if id(p) not in known]:\n"
                "    optimizer.add_param_group({'params': new})",
            ),
            confidence=0.8,
            stream=Stream.GRADIENT,
            statistic=Stat.L2,
        )

    @staticmethod
    def sick() -> History:
        """Return a model that is detached before its output layer."""
        return _run((8, 8), ran=True)

    @staticmethod
    def healthy() -> History:
        """Return an expert that was not called in these steps."""
        return _run((8, 8), ran=False)


def _first_step(steps: Steps, absent: Flags) -> int:
    """Return the first of the newest steps in a row at which all gradients were absent."""
    nowhere: Flags = np.all(absent, axis=1)
    return int(steps[-trailing_run(nowhere)])


def _cut_off_start(places: Sequence[Place], absent: Flags, ran: Flags, unseen: Flags) -> Flags:
    """Return the parameters before the first layer with a gradient, if that layer needs them.

    One of them ran, and one is a weight matrix that ran, or is `unseen`: what runs under `no_grad`
    is not measured, and cuts off all before it.
    """
    if absent.all():
        return np.zeros(len(places), bool)
    depths = np.array([p.depth for p in places])
    before: Flags = depths < depths[~absent].min()
    layers = np.array([bool(p.module) and p.kind == "weight" and len(p.shape) >= 2 for p in places])
    return before & ((before & ran).any() and (before & layers & (ran | unseen)).any())


def _entries(places: Sequence[Place]) -> int:
    return sum(math.prod(p.shape) for p in places)


def _run(shape: tuple[int, ...], *, ran: bool) -> History:
    names = ("body", "head")
    places = [
        Place(f"{name}.weight", kind="weight", shape=shape, depth=i, module=name)
        for i, name in enumerate(names)
    ]
    outputs = [Place(name, kind="Linear", depth=i, module=name) for i, name in enumerate(names)]
    gradient = {"head.weight": {Stat.L2: 0.1, Stat.NONFINITE: 0.0}}
    updates = {"body.weight": {Stat.RMS: 0.0}, "head.weight": {Stat.RMS: 1e-3}}
    measured = names if ran else names[1:]
    example = Example(6).scalars(loss=[2.0] * 6)
    example.stream(Stream.GRADIENT, places, gradient).stream(Stream.UPDATE, places, updates)
    return example.stream(
        Stream.ACTIVATION, outputs, {name: {Stat.MEAN: 0.1} for name in measured}
    ).history
