"""Measure what a training loss compares: predictions, targets, masks, and what precedes backward.

Comes in: the first training losses of a sampled step, with the tensors that the caller gave or that
          the loss's graph holds (loss_graph.py). Goes out: scalars of the step, events.
Promise:  no tensor of the program is kept after a call, except by its own graph; nothing waits for
          a device: on an accelerator every scalar stays a 0-dim tensor, and the values that would
          need the host (class histogram, distinct whole numbers) are left out.
Start at `Supervision.take`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from trainvitals.capture.class_histogram import ClassHistogram
from trainvitals.capture.dependence import Dependence
from trainvitals.capture.dropped_outputs import DroppedOutputs
from trainvitals.capture.graph_nodes import origin_of
from trainvitals.capture.guard import Guard
from trainvitals.capture.loss import Seen
from trainvitals.capture.loss_clamped import error_without_gradient
from trainvitals.capture.loss_criterion import Criterion, Found
from trainvitals.capture.loss_graph import criteria
from trainvitals.capture.loss_log_sigmoid import Squashed, before_log_sigmoid
from trainvitals.capture.loss_normal import compares_all_pairs
from trainvitals.capture.loss_sequences import CTC
from trainvitals.capture.loss_signed import one_sided
from trainvitals.capture.loss_terms import constants, supervised_shares
from trainvitals.capture.loss_views import multiplies_all_pairs
from trainvitals.capture.loss_zero_terms import ZeroTerms
from trainvitals.capture.mixed_dimensions import MixedDimensions
from trainvitals.capture.modes import Modes
from trainvitals.capture.output_graph import OutputGraph
from trainvitals.capture.scalars import TOTAL, StepScalars
from trainvitals.capture.supervised_inputs import (
    NOT_GIVEN,
    Given,
    RepeatedInput,
    far_value,
    feature_scales,
    nonfinite_inputs,
    rows_of,
    target_in_input,
)
from trainvitals.capture.supervised_padding import TokenShare, padded_share, padding_of
from trainvitals.capture.supervised_pair import completed, ignored_class, readable
from trainvitals.capture.supervised_tokens import TokenTargets
from trainvitals.capture.supervised_values import (
    class_counts,
    class_dim,
    deviation_of_outputs,
    kept,
    moments,
    named,
    nonfinite_count,
    prediction_scalars,
    sample,
    unmasked,
)
from trainvitals.capture.unregistered import Unregistered
from trainvitals.structure.parameters import reason_not_measured
from trainvitals.wire import Event, EventKind, Record, Scalar

MICRO_BATCHES_MAX: Final = 8
"""Maximum number of micro-batches of a step whose supervised elements are counted."""
KINDS_MAX: Final = 16
"""Maximum number of different losses per run that are described by an event."""


class Supervision:
    """Measures the supervision of the sampled steps of one run."""

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        scalars: StepScalars,
        emit: Callable[[Record], None],
        guard: Guard,
        step: Callable[[], int],
        mixed: MixedDimensions,
    ) -> None:
        """`step` returns the number of the current step."""
        self._models = models
        self._scalars = scalars
        self._emit = emit
        self._guard = guard
        self._step = step
        self._measured_step = -1
        self._micro_batches = 0
        self._supervised: Tensor | float = 0.0
        self._all = 0
        self._kinds: set[tuple[str, ...]] = set()
        self._classes = ClassHistogram()
        self._output: tuple[int, tuple[int, ...], dict[int, dict[str, Tensor]]] | None = None
        self._wants_output = True
        self._given = NOT_GIVEN
        self._tokens = TokenTargets()
        self._repeated = RepeatedInput()
        self._dependence = Dependence()
        self._padding = padding_of(models.values())
        self._token_share = TokenShare(models.values())
        self._unregistered = Unregistered(models)
        self._modes = Modes(models)
        self._graph = OutputGraph(models, mixed)
        self._zero_terms = ZeroTerms()
        self._dropped = DroppedOutputs(models)
        self._was_squashed = False
        self._own_s = 0.0

    def take(self, value: object, seen: Seen, optimizers: Sequence[Optimizer]) -> float:
        """Measure a training loss of the current step; return the seconds spent outside, in hooks.

        `value` is the loss or its terms by name; `seen` holds the prediction and the target, if
        they are known. Ranges are those of the first micro-batch of a step, or of the one that was
        given with its prediction; the share of supervised elements covers the first eight.
        """
        losses = _with_graph(value)
        first = self._measured_step != self._step()
        if first:
            self._measured_step, self._micro_batches = self._step(), 0
            self._supervised, self._all = 0.0, 0
            # With a loss before this one in the same step, gradients may exist in a correct loop.
            if self._scalars.waiting == 1 and len(optimizers) <= 1:
                self._watch_backward(losses, optimizers)
            self._scalars.log(self._modes.shares())
            if (event := self._unregistered.event(self._step(), optimizers)) is not None:
                self._emit(event)
        self._micro_batches += 1
        if self._micro_batches <= MICRO_BATCHES_MAX:
            with torch.no_grad():
                self._take_criteria(losses, value, seen, first=first)
            self.release()
        spent, self._own_s = self._own_s, 0.0
        return spent

    def model_returned(self, given: Given, output: object) -> None:
        """Remember the inputs of a model on a sampled step, and measure its output.

        The output can be the input of the loss: a cross entropy keeps its log-probabilities, not
        the logits that it was given.
        """
        # Until the loss: the model's graph keeps it as long, in general.
        self._given = given
        self._tokens.returned(output)
        if not self._wants_output and self._graph.is_taken:
            return
        started = time.thread_time()
        if isinstance(output, Mapping):
            logits = readable(output.get("logits"))
        else:
            logits = readable(getattr(output, "logits", output))
        if logits is not None and logits.grad_fn is None:
            logits = None
        if logits is not None and not self._graph.is_taken:
            events, scalars = self._graph.take(self._step(), given, logits)
            self._scalars.log(scalars)
            for event in events:
                self._emit(event)
        if self._wants_output and logits is not None and logits.dim() > 1:
            with torch.no_grad():
                shape = tuple(logits.shape)
                dims = {1, -1} if logits.dim() > 2 else {1}
                by_dim = {dim: prediction_scalars(logits, dim) for dim in dims}
                self._output = (origin_of(logits.grad_fn), shape, by_dim)
        self._own_s += time.thread_time() - started

    def release(self) -> None:
        """Release the input of a model whose loss was not reported."""
        self._given = NOT_GIVEN

    # Predictions and targets.

    def _take_criteria(
        self, losses: Sequence[Tensor], value: object, seen: Seen, *, first: bool
    ) -> None:
        whole = first or seen.explicit
        graphs = [criteria(loss) for loss in losses]
        found = [c for graph in graphs for c in graph.criteria]
        is_stacked = any(graph.is_stacked for graph in graphs)
        first_found = found[0] if found else Criterion("")
        is_alone = len(found) < 2
        main = completed(first_found, seen, is_alone=is_alone)
        self._wants_output = main.logits is not None and main.prediction is None
        squashed = before_log_sigmoid(losses)
        self._was_squashed |= squashed is not None  # then a repaired loss is announced too
        is_known = main.kind or main.wiring or self._was_squashed
        if whole and (is_known or seen.explicit or seen.module):
            is_sum = len(found) > 1 and not is_stacked
            self._announce(found, main, value, seen, is_sum=is_sum, squashed=squashed)
        if first and (event := self._dropped.event(max(0, self._step()), found)) is not None:
            self._emit(event)
        if whole and not (isinstance(value, Mapping) and TOTAL in value):
            is_whole = all(graph.is_whole for graph in graphs) and not _detached_terms(value)
            terms = [completed(c, seen, is_alone=is_alone) if c.normal else c for c in found]
            self._scalars.log(constants(Found(terms, is_whole, is_stacked), losses))
            self._scalars.log(supervised_shares(found))
            self._scalars.log(self._zero_terms.take(losses))
        if whole and main.prediction is not None:
            self._scalars.log(error_without_gradient(main))
            dim = class_dim(main.prediction, main.classes, main.target)
            self._scalars.log(prediction_scalars(main.prediction, dim))
        elif whole and self._output is not None and main.logits is not None:
            origin, shape, by_dim = self._output
            if origin == origin_of(main.logits) and main.classes in (shape[-1], shape[1]):
                self._scalars.log(by_dim[1 if shape[1] == main.classes else -1])
        x = readable(self._given.first)
        self._scalars.log(self._tokens.take([main, *found[1:]], x, self._given.others, first=first))
        x = x if whole else None
        if x is not None:
            self._scalars.log(nonfinite_inputs(x) | rows_of(x) | self._repeated.share(x))
            if self._given.is_only:
                self._scalars.log(self._token_share.take(x))
            if x.is_floating_point():
                entries = sample(x.detach()).float()
                self._scalars.log(named("input", moments(entries, None)) | feature_scales(x))
                self._scalars.log(far_value(x))
        self._take_target(main, x, whole=whole)

    def _take_target(self, main: Criterion, x: Tensor | None, *, whole: bool) -> None:
        if main.target is None or main.kind == CTC:  # the losses of CTC are those of sequences
            if main.masks:
                mask = sample(main.masks[0].detach())
                self._count(unmasked(mask), mask)
            return
        target = sample(main.target.detach())
        keep = kept(main, target)
        if not main.target.is_floating_point() or not main.classes:
            self._count(keep, target)
        else:  # probabilities of each class: a row without any is not supervised
            dim = class_dim(main.target, main.classes, None) or -1
            rows = sample(main.target.detach(), whole=dim)
            sums = rows.sum(dim)
            self._count(sums != 0, rows.select(dim, 0))
            if whole and sums.numel():
                self._scalars.log({Scalar.TARGET_ROW_SUM_MAX: sums.amax()})
        if not whole or target.numel() == 0:
            return
        self._scalars.log(named("target", moments(target.float(), keep)))
        if target.is_floating_point():
            self._scalars.log(deviation_of_outputs(main.target, keep))
            self._scalars.log({Scalar.NONFINITE_TARGETS: nonfinite_count(target, keep)})
        if x is not None:
            ignored, others = main.ignore_index, self._given.others
            self._scalars.log(target_in_input(x, main.target, ignored, main.classes, others))
            self._scalars.log(padded_share(x, main.target, keep, self._padding))
            if self._given.is_only:
                self._scalars.log(self._dependence.take(x, main.target))
        if (counts := class_counts(main, target, keep)) is None:
            return
        # An all-zero count gives 0/0 = NaN: no class was supervised.
        self._scalars.log(
            {
                Scalar.TARGET_CLASSES: (counts > 0).sum().float(),
                Scalar.TARGET_MAJORITY_SHARE: counts.max() / counts.sum(),
            }
        )
        if (event := self._classes.add(self._step(), counts)) is not None:
            self._emit(event)

    def _count(self, keep: Tensor | None, x: Tensor) -> None:
        """Count the entries of `x` that are supervised; None: all."""
        count = x.numel() if keep is None else keep.sum(dtype=torch.float32)
        self._supervised = self._supervised + count
        self._all += x.numel()
        share = self._supervised / self._all if self._all else 0.0
        self._scalars.log({Scalar.SUPERVISED_SHARE: share})

    # Events.

    def _announce(
        self,
        found: Sequence[Criterion],
        main: Criterion,
        value: object,
        seen: Seen,
        *,
        is_sum: bool,
        squashed: Squashed | None,
    ) -> None:
        kinds = [c.kind for c in found] or [main.kind]
        wiring = list(dict.fromkeys(w for c in [main, *found[1:]] for w in c.wiring))
        shown = next((c for c in [main, *found[1:]] if c.wiring), main)
        if any(multiplies_all_pairs(loss) for loss in _with_graph(value)):
            wiring.append("column_times_row")
        if main.normal and compares_all_pairs(main.normal, seen.target):
            wiring.append("errors_of_all_pairs")
        if len(found) < 2 and (wrong := one_sided(value, seen)):
            wiring.append(wrong)
        number = main.activation_number
        if squashed is not None:
            wiring.append(squashed.token)
            number = max(number, squashed.number)
        detached = _detached_terms(value)
        place = self._tokens.place(found, main, readable(self._given.first))
        outside = self._tokens.is_outside(number)
        how = (main.last_activation, main.reduction, seen.module, detached, place)
        signature = (*kinds, *wiring, *how)
        if signature in self._kinds or len(self._kinds) >= KINDS_MAX:
            return
        self._kinds.add(signature)
        attributes: dict[str, str | float] = {
            "wiring": ",".join(wiring),
            "reduction": main.reduction,
            "last_activation": main.last_activation,
            "module": seen.module,
            "detached_terms": detached,
            "prediction_shape": _shape_text(shown.prediction),
            "target_shape": _shape_text(shown.target),
            "target_type": "" if main.target is None else str(main.target.dtype)[6:],
            "classes": float(main.classes),
            "ignored_class": ignored_class(main, readable(self._given.first)),
            "position_read": place,
            "activation_outside": float(outside),
            "positive_weight": main.positive_weight,
            "class_weights": main.class_weights,
            "scale": _scale(found),
            "terms": ",".join(kinds) if is_sum else "",
            "scales": ",".join(f"{c.scale:g}" for c in found) if is_sum else "",
        }
        known = {k: v for k, v in attributes.items() if v}
        self._event(EventKind.LOSS_KIND, " + ".join(dict.fromkeys(kinds)), known)

    def _event(self, kind: EventKind, text: str, attributes: dict[str, str | float]) -> None:
        self._emit(Event(max(0, self._step()), time.time(), kind, text, attributes))

    # Gradients.

    def _watch_backward(self, losses: Sequence[Tensor], optimizers: Sequence[Optimizer]) -> None:
        step, waiting = self._step(), [True]

        def before_backward(_gradients: object) -> None:
            if not waiting or torch.compiler.is_compiling():
                return
            if torch.is_grad_enabled():
                return  # create_graph=True: a penalty's gradient, before zero_grad and backward
            waiting.clear()
            started = time.thread_time()
            with self._guard.probe("gradients before backward"), torch.no_grad():
                if self._step() == step:
                    norm = self._gradient_norm(optimizers)
                    self._scalars.log({Scalar.GRADIENT_NORM_BEFORE_BACKWARD: norm})
            self._own_s += time.thread_time() - started

        for loss in losses:
            if loss.grad_fn is not None:
                loss.grad_fn.register_prehook(before_backward)

    def _gradient_norm(self, optimizers: Sequence[Optimizer]) -> Tensor | float:
        trained = [p for o in optimizers for g in o.param_groups for p in g["params"]]
        if not trained:
            trained = [p for m in self._models.values() for p in m.parameters()]
        gradients = [p.grad for p in trained if p.grad is not None]
        readable = [g for g in gradients if reason_not_measured(g) is None]
        if not readable:
            return math.nan if gradients else 0.0
        device = readable[0].device
        if any(g.device.type != device.type for g in readable):
            return math.nan  # one number of both would wait for the device
        norms = [n.float().to(device, non_blocking=True) for n in torch._foreach_norm(readable)]
        total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return total


def _with_graph(value: object) -> list[Tensor]:
    values = value.values() if isinstance(value, Mapping) else (value,)
    return [v for v in values if isinstance(v, Tensor) and v.grad_fn is not None]


def _scale(found: Sequence[Criterion]) -> float:
    """Return the factor on the mean loss that all losses of a graph have; 0: it is 1 or unknown."""
    scales = {c.scale for c in found}
    scale = scales.pop() if len(scales) == 1 else 0.0
    return scale if 0 < scale < math.inf and scale != 1 else 0.0


def _detached_terms(value: object) -> str:
    terms = value if isinstance(value, Mapping) else {}
    detached = [
        str(name)
        for name, term in terms.items()
        if name != TOTAL and term is not None and not getattr(term, "requires_grad", False)
    ]
    return ",".join(sorted(detached))


def _shape_text(tensor: Tensor | None) -> str:
    return "" if tensor is None else str(tuple(tensor.shape))
