"""Compare the targets of a token model with its input: by how many positions they are shifted, and
how many positions of its output the loss reads.

Comes in: the first input of a model, token numbers of shape (samples, positions); what the loss's
          graph shows (`Criterion`). Goes out: 0-dim tensors on the device, without a
          synchronisation; nothing for other inputs and losses.
Promise:  no tensor of the program is kept.
Start at `TokenTargets.take`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from trainvitals.capture.graph_nodes import saved
from trainvitals.capture.loss_criterion import Criterion
from trainvitals.capture.supervised_inputs import is_delayed
from trainvitals.capture.supervised_positions import Positions, positions_read
from trainvitals.capture.supervised_values import sample, unmasked
from trainvitals.wire import Scalar

SHIFTS: Final = range(-1, 9)
"""Shifts k that are tried: the target of position i is the input's token i + k."""
ENTRIES_MAX: Final = 2_048
"""Maximum number of targets that are compared: whole sequences, evenly spaced, at least one."""
EQUAL_MIN: Final = 0.98
"""Share of equal tokens from which a shift holds."""
CHANCE_LOG: Final = -9.2
"""Logarithm of the probability that all compared targets are equal by chance: 1e-4 at most."""
MARGIN: Final = 0.1
"""A shift other than 1 holds only if its share is so much larger than that of shift 1."""
NEXT_MIN: Final = 4
"""Minimum number of targets that equal the next token."""
NOTHING, OUTSIDE = -(2**40), -(2**41)
"""What stands for a target that is not supervised, and for a token outside the sequence. Powers of
two: `pad` takes a float."""
POSITIONS_MIN: Final = 8
"""Minimum length of a sequence of which the positions that are read count."""
VOCABULARY_MIN: Final = 8
"""Minimum number of classes for the same: with fewer, they are answers about the sequence."""


class TokenTargets:
    """Compares the targets of the sampled steps of one run with the model's input."""

    def __init__(self) -> None:
        self._output: tuple[int, tuple[int, ...]] = (-1, ())
        self._newest = -1
        self._labelled: set[int | None] = set()
        self._shift: Tensor | None = None
        self._seen: set[int] = set()

    def returned(self, output: object) -> None:
        """Remember the number and the shape of a model's output: logits, or a tuple with them."""
        if isinstance(output, Mapping):
            output = output.get("logits")
        output = getattr(output, "logits", output)
        parts = output if isinstance(output, (tuple, list)) else (output,)
        tensors = [x for x in parts if isinstance(x, Tensor) and x.dim() > 0]
        logits = next((x for x in tensors if x.dim() > 1), tensors[0] if tensors else None)
        trained = [x.grad_fn._sequence_nr() for x in tensors if x.grad_fn is not None]
        self._newest = max(trained, default=-1)
        if logits is None or logits.grad_fn is None:
            self._output = (-1, ())
        else:
            self._output = (logits.grad_fn._sequence_nr(), tuple(logits.shape))

    def is_outside(self, number: int) -> bool:
        """Whether the operation with this number was computed after all outputs of the model."""
        return 0 <= self._newest < number

    def take(
        self, found: Sequence[Criterion], x: Tensor | None, others: Sequence[Tensor], *, first: bool
    ) -> dict[str, Tensor]:
        """Return the shift of the targets, and the share of the positions that are read.

        `found` are the losses in the graph of one reported loss, `x` the model's first input (None
        if the model was not called since the last loss), `others` further inputs of its shape;
        `first`: this is the first loss of the step. The shift is 1 if one of the losses of a step
        has it (several tokens are predicted at once), and NaN if they differ otherwise.
        """
        if first:
            self._shift, self._seen = None, set()
        # A model that returns its loss reports it, the program may report it again, and a term is
        # a part of the total.
        new = {_number(c): c for c in found if _is_of_classes(c) and _number(c) not in self._seen}
        self._seen |= new.keys() - {-1}
        wanted = [*new.values()]
        if not wanted:
            return {}
        before, self._shift = self._shift, None
        if x is None or not _is_of_tokens(x):
            if before is None:
                return {}
            self._shift = torch.where(before == 1, before, torch.nan)
            return {Scalar.TARGET_SHIFT: self._shift}
        here = [c for c in wanted if c.target is not None and c.target.device == x.device]
        shifts = [self._shift_of(c, x, others) for c in here]
        known = [s for s in (before, *shifts) if s is not None]
        if not known:
            return {}
        self._shift = _agreed(known)
        found_now: dict[str, Tensor] = {Scalar.TARGET_SHIFT: self._shift}
        if len(here) == 1 and (share := self._read_share(here[0], x)) is not None:
            found_now[Scalar.POSITIONS_READ_SHARE] = share
        return found_now

    def place(self, found: Sequence[Criterion], main: Criterion, x: Tensor | None) -> str:
        """Return which position a loss reads that reads one of each sequence: last or earlier.

        `main` is the first one of the losses `found` in the graph.

        "last" also for the last but one, whose target is the last token; "" for other losses.
        "labelled": one of several positions that all have a label, in any sequence of 2 or more.
        """
        if x is None or not _is_of_classes(main) or main.target is None:
            return ""
        # A program that adds up one loss for each position reads all of them.
        if len(found) == 1 and self._is_labelled(main, x):
            return "labelled"
        if not _is_of_tokens(x) or x.shape[1] < POSITIONS_MIN:
            return ""
        read = self._positions(main)
        if read is None or read.first is None or self._put_out(main, read) != x.numel():
            return ""
        if main.target.numel() != x.shape[0]:
            return ""
        return "last" if read.first >= x.shape[1] - 2 else "earlier"

    def _is_labelled(self, main: Criterion, x: Tensor) -> bool:
        """Whether the targets are one column of the labels of all positions of the output.

        And always the same column.
        The storage of the targets holds the other labels. Not if it is the input's own: then the
        target is a token of the sequence.
        """
        target = None if main.entry is None else saved(main.entry, "target")
        if target is None or target.dim() != 1 or target.numel() < 2:
            return False
        storage = target.untyped_storage()
        labels = storage.nbytes() // target.element_size()
        if labels < 2 * target.numel() or target.stride(0) * target.numel() != labels:
            return False
        if storage.data_ptr() == x.untyped_storage().data_ptr():
            return False
        read = self._positions(main)
        if read is None or self._put_out(main, read) != labels:
            return False
        # A program that draws a position for each batch reads all of them over time.
        self._labelled.add(read.first)
        return len(self._labelled) == 1

    def _positions(self, main: Criterion) -> Positions | None:
        if main.entry is None:
            return None
        return positions_read(main.entry, main.classes, self._output[0])

    def _put_out(self, main: Criterion, read: Positions) -> int:
        """Return the number of positions of the model's output, if the loss reads it; else 0."""
        shape = self._output[1]
        if len(shape) < 2 or not read.of_output or main.classes not in (shape[-1], shape[1]):
            return 0
        return math.prod(shape) // main.classes

    def _read_share(self, main: Criterion, x: Tensor) -> Tensor | None:
        """Return the share of the output's positions that the loss reads; None if not known.

        NaN if the input contains a token that is no class of the loss: then the classes are no
        tokens.
        """
        read = self._positions(main)
        if main.target is None or read is None or main.classes < VOCABULARY_MIN:
            return None
        if x.shape[1] < POSITIONS_MIN or self._put_out(main, read) != x.numel():
            return None
        share = torch.full((), main.target.numel() / x.numel(), device=x.device)
        return torch.where(sample(x).amax() < main.classes, share, torch.nan)

    def _shift_of(self, main: Criterion, x: Tensor, others: Sequence[Tensor]) -> Tensor | None:
        """Return the shift of a loss's targets against `x`, NaN if none holds; None: not known."""
        if main.target is None:
            return None
        first: int | None = 0
        if (read := self._positions(main)) is not None:
            # More positions than tokens: a prefix, such as an image, precedes them.
            if read.entries and read.entries != x.numel() * main.classes:
                return None
            first = read.first
        elif main.target.numel() != x.numel():
            return None  # which positions are left out is not known
        if first is None:
            return None
        keep = torch.ones_like(main.target, dtype=torch.bool)
        if main.ignore_index is not None:
            keep = main.target != main.ignore_index
        for mask in main.masks:
            if mask.device == x.device and mask.numel() == keep.numel():
                keep = keep & unmasked(mask.detach()).reshape(keep.shape)
        shift = shift_of(x, main.target, keep, first)
        if shift is None:
            return None
        for other in others:
            # A decoder that is given the target so far copies the input of the encoder.
            shift = torch.where(is_delayed(other, x), torch.nan, shift)
        return shift


def shift_of(x: Tensor, target: Tensor, keep: Tensor, first: int = 0) -> Tensor | None:
    """Return k if target[:, j] equals x[:, first + j + k] where `keep`; NaN if no k holds.

    `x` has shape (samples, positions); `target` and `keep` have one entry for each sample and each
    of some positions from `first` on, in any shape. For as many entries as `x` has, the positions
    can be the first dimension of both. 1 has precedence, then 0; NaN if several others hold. A
    shift holds if EQUAL_MIN of the targets are equal and other places of the batch show that this
    is no chance. None if the shapes do not fit.
    """
    holds, following = [], []
    for dim in (1, 0):
        rows, n = (x, x.shape[0]) if dim else (x.T, x.shape[1])
        length = target.numel() // n
        if length * n != target.numel() or first + length > rows.shape[1]:
            continue
        if not dim and (target.numel() != x.numel() or first):
            continue
        y, kept = (t.reshape(n, length) if dim else t.reshape(length, n).T for t in (target, keep))
        held, share_of_next = _holding(*_selected(rows, y, kept, first))
        if x.is_cpu and share_of_next >= EQUAL_MIN:
            return torch.ones(())
        holds.append(held)
        following.append(share_of_next)
    if not holds:
        return None
    held = torch.stack(holds).any(0)  # each shift, shape (10,)
    is_next = torch.stack(following).amax() >= EQUAL_MIN
    shifts = torch.arange(SHIFTS.start, SHIFTS.stop, device=x.device)
    only = torch.where(held.sum() == 1, (held * shifts).sum().float(), torch.nan)
    other = torch.where(held[-SHIFTS.start], 0.0, only)
    return torch.where(is_next, 1.0, other)


def _selected(x: Tensor, y: Tensor, keep: Tensor, first: int) -> tuple[Tensor, Tensor, int]:
    """Return at most ENTRIES_MAX targets, of whole sequences or the beginning of one.

    Those that are not supervised become NOTHING.
    """
    y, keep = y[:, :ENTRIES_MAX], keep[:, :ENTRIES_MAX]
    every = max(1, -(-y.numel() // ENTRIES_MAX))
    end = first + y.shape[1] + SHIFTS.stop
    # int64, also on the right: uint8 cannot hold NOTHING.
    return x[::every, :end].long(), y[::every].long().masked_fill(~keep[::every], NOTHING), first


def _holding(x: Tensor, y: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Return which of SHIFTS hold besides 1, shape (10,), and the share of equal tokens of 1."""
    count = _count(x, y, first)
    at_least_one = count.clamp_min(1.0)
    share = _equal(x, y, first) / at_least_one
    enough = count[1 - SHIFTS.start] >= NEXT_MIN
    following = torch.where(enough, share[1 - SHIFTS.start], 0.0)
    holds = share >= EQUAL_MIN
    # On the CPU a look at the values costs nothing: in a healthy run the rest is left out.
    if x.is_cpu and (following >= EQUAL_MIN or not holds.any()):
        return torch.zeros_like(holds), following
    # Other sequences at other places: what is equal there is equal by chance.
    other = x.roll((1, max(1, x.shape[1] // 3)), (0, 1))
    chance = (_equal(other, y, first) / at_least_one).amax().clamp(1e-3, 1.0)
    is_known = count * chance.log() <= CHANCE_LOG
    return holds & is_known & (share >= share[1 - SHIFTS.start] + MARGIN), following


def _equal(x: Tensor, y: Tensor, first: int) -> Tensor:
    """Return for each of SHIFTS the number of targets that equal the token there, shape (10,)."""
    length, n = y.shape[1], len(SHIFTS)
    padded = nn.functional.pad(x, (-SHIFTS.start, SHIFTS.stop), value=OUTSIDE)
    windows = padded[:, first : first + length + n - 1].unfold(1, length, 1).transpose(0, 1)
    return (windows == y).flatten(1).sum(1, dtype=torch.float32)


def _count(x: Tensor, y: Tensor, first: int) -> Tensor:
    """Return the number of supervised targets whose token lies in the sequence, shape (10,)."""
    places = torch.arange(SHIFTS.start, SHIFTS.stop, device=x.device)[:, None]
    places = places + torch.arange(first, first + y.shape[1], device=x.device)
    inside = (places >= 0) & (places < x.shape[1])
    return inside.float() @ (y != NOTHING).sum(0, dtype=torch.float32)


def _agreed(shifts: Sequence[Tensor]) -> Tensor:
    """Return 1 if one of the shifts is 1, their value if all are equal, otherwise NaN."""
    all_ = torch.stack(list(shifts))
    same = torch.where((all_ == all_[0]).all(), all_[0], torch.nan)
    return torch.where((all_ == 1).any(), 1.0, same)


def _number(main: Criterion) -> int:
    """Return the sequence number of a loss in the graph; −1 for one that is not in it."""
    return -1 if main.entry is None else int(main.entry._sequence_nr())


def _is_of_classes(main: Criterion) -> bool:
    target = main.target
    if target is None or target.is_floating_point() or target.dtype == torch.bool:
        return False
    if target.layout is not torch.strided or hasattr(target, "full_tensor"):
        return False
    return main.classes > 1 and target.numel() > 0


def _is_of_tokens(x: Tensor) -> bool:
    integers = not x.is_floating_point() and not x.is_complex() and x.dtype != torch.bool
    return integers and x.dim() == 2 and x.shape[1] > 1 and x.numel() > 0
