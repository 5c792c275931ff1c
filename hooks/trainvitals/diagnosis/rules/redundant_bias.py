"""TV703: a bias directly before a normalisation that removes it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import Moment, at
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.rule import Need, Rule
from trainvitals.wire import Place, Stat, Stream

_PER_CHANNEL = (
    *("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"),
    *("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"),
)
"""Norms that subtract the mean of each channel, and with it any constant of the channel."""
_LAYERS = ("Linear", "Conv1d", "Conv2d", "Conv3d")


@dataclass(frozen=True)
class RedundantBias(Rule):
    """A layer has a bias, and the BatchNorm directly after it subtracts it again.

    ## What it detects
    A trained bias of a linear or convolution layer whose next module is a BatchNorm or an
    InstanceNorm. Both subtract the mean of each channel over the batch or the image. LayerNorm and
    GroupNorm subtract a mean over several channels and keep differences between the biases: layers
    before them are not counted.
    ## Why it matters
    The bias has no effect on the output, its gradient is only rounding, and the norm's own shift
    does its work. It costs memory of the parameter, of its gradient and of the optimizer's state,
    and weight decay or Adam can move it without any effect. It is a note.
    ## Evidence
    The number of such biases and of their entries.
    ## What to do
    Create the layer with `bias=False`.
    ## When it is wrong
    Modules that are called in another order than in the first step; a norm that is used in eval
    mode with fixed statistics while training.
    ## References
    Ioffe & Szegedy, "Batch Normalization", 2015, arXiv:1502.03167, section 3.2.
    """

    code: ClassVar[str] = "TV703"
    stage: ClassVar[Stage] = Stage.WIRING
    damages_loss: ClassVar[bool] = False
    needs: ClassVar[tuple[Need, ...]] = (Stream.WEIGHT,)
    fix: ClassVar[str] = ""
    refuted_by: ClassVar[str] = "The output changes when this bias changes."

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one note, at the first redundant bias."""
        if not history.has(Stream.WEIGHT):
            return
        after = {p.depth: p.kind for p in history.places(Stream.ACTIVATION) if p.depth >= 0}
        found = [
            p
            for p in history.places(Stream.WEIGHT)
            if p.kind == "bias"
            and p.module_kind in _LAYERS
            and p.depth >= 0
            and p.trainable
            and p.optimized
            and "before_norm" in p.flags
            and after.get(p.depth + 1) in _PER_CHANNEL
        ]
        if not found:
            return
        first = min(found, key=lambda p: p.depth)
        entries = sum(math.prod(p.shape) for p in found)
        norm = after[first.depth + 1]
        yield self.finding(
            severity=Severity.INFO,
            where=first.name,
            since_step=int(history.steps(Stream.WEIGHT)[0]),
            summary=(
                f"Redundant bias: the {norm} after {first.module} subtracts {first.name} again "
                f"(biases like this: {len(found)}, entries: {entries:,})."
            ),
            evidence=(
                Evidence(
                    quantity="biases before a BatchNorm or InstanceNorm", seen=float(len(found))
                ),
                Evidence(quantity="their entries", seen=float(entries)),
            ),
            fix=at(
                Moment.BEFORE_TRAINING,
                f"for name in {[p.module for p in found]}:\n"
                "    model.get_submodule(name).bias = None  # bias=False",
            ),
            stream=Stream.WEIGHT,
            statistic=Stat.DRIFT_RMS,
        )

    @staticmethod
    def sick() -> History:
        """Return a convolution with a bias before BatchNorm."""
        return _run("BatchNorm2d")

    @staticmethod
    def healthy() -> History:
        """Return the same before GroupNorm, which keeps differences between channels."""
        return _run("GroupNorm")


def _run(norm: str) -> History:
    bias = Place("0.bias", "bias", (8,), 0, "0", "Conv2d", flags=("before_norm",))
    modules = [Place("0", "Conv2d", depth=0, module="0"), Place("1", norm, depth=1, module="1")]
    return (
        Example(2)
        .stream(Stream.WEIGHT, [bias], {"0.bias": {Stat.L2: 0.3}})
        .stream(Stream.ACTIVATION, modules, {"0": {Stat.SAMPLE_STD: 1.0}})
        .history
    )
