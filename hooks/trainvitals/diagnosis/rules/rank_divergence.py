"""TV953: the ranks of a run no longer have the same weights or gradients, or never had."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.ranks import (
    Separate,
    gradient_norms,
    relative,
    separate,
    trailing,
    weights,
)
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.signals import Floats
from trainvitals.wire import Place, Stat, Stream

CALL_THE_WRAPPER: Final = (
    "Call the DistributedDataParallel module in the training step, not its `.module` and not the "
    "model that it wraps, and run the last backward pass of each step outside of "
    "`no_sync()`. Until then, continue from one rank's checkpoint: the weights of the ranks belong "
    "to different trainings."
)
WRAP_THE_WHOLE: Final = (
    "Wrap the whole model in DistributedDataParallel, in place of its part. If the parameters "
    "outside of it are meant to be local to each rank, nothing is wrong."
)
GRADIENT: Final = "gradient norm"
WRAP: Final = "model = torch.nn.parallel.DistributedDataParallel(model)"


class _Difference(NamedTuple):
    """What differs between the run's lowest rank and another one, at their newest common step."""

    rank: int
    name: str
    """A parameter, or GRADIENT."""
    since: int
    relative: float
    first: float
    other: float


@dataclass(frozen=True)
class RankDivergence(Rule):
    """The ranks of a run have different weights or gradients, or train separate models.

    ## What it detects
    One of three. If the run is data-parallel (in ten steps or more, another rank has the gradient
    norm of the lowest rank, to 0.001 %, before clipping, and ten different values, as after a
    reduction): in the newest three steps at which both ranks measured their weights, the L2 norm of
    a parameter differs by more than 0.001 %; or the gradient norms of the newest ten common steps
    all differ by more than 0.1 %. Otherwise, if the program has initialised a process group of two
    or more ranks, separate models: the gradients were never reduced. Every compared rank has the
    parameters, learning rates and weight decays of the lowest rank and a loss; over 64 steps or
    more the gradient norms are not equal (in 2 % of the steps at most), with a median difference
    above 0.1 %; and all weights that the training moves differ in the newest three common steps and
    were not brought together at any step. An error if the weights were equal at the first step; a
    note if they were not (seeds) and the losses differ too, or if only the parameters outside of a
    wrapped part of the model differ. Left out: parameters that are divided over the ranks (FSDP,
    tensor parallelism), and trainings without a process group. The collector compares the ranks: up
    to seven besides the lowest, one more in each round. The training processes do not communicate
    for this, and so the report at the end of a process, which knows its own rank only, cannot
    contain it.
    ## Why it matters
    The gradients are averaged as if all ranks had one model. With different models the average fits
    none of them; the checkpoint of rank 0 is not the model that the others train. With separate
    models nothing is averaged: the work of all ranks but one is lost.
    ## Evidence
    The relative difference, its limit, the values of both ranks, and the first step that differs.
    ## What to do
    - The ranks train separate models: wrap the model in DistributedDataParallel before the first
      step, call the wrapper, and leave `no_sync` at the last micro-batch of a step. Give each rank
      its part of the data (`DistributedSampler`).
    - Otherwise look for code that only one rank runs and that changes weights: a loaded checkpoint,
      an initialisation after DistributedDataParallel was made, a clipping or an average of weights.
    - Seed each rank alike before the model is made, or make DistributedDataParallel afterwards.
    - If one machine is affected alone, test its memory and its GPU: silent data corruption.
    - Continue from an earlier checkpoint; `torch.distributed.broadcast` of each parameter from
      rank 0 makes the ranks equal again. There is no code that removes the cause, except for a
      model that was not wrapped.
    ## When it is wrong
    Independent trainings of one configuration on purpose, such as an ensemble: they get the note.
    Methods that let the ranks differ for a while after a common start: local SGD and DiLoCo, until
    a step soon after an average is measured in full, which the first 64 steps usually are; averages
    of neighbours only (gossip); and parameters that are local to each rank. Trainings that differ
    in something that is not compared (the class of the optimizer, the data) and use a process group
    for barriers only. Weights are compared at steps that both ranks measured in full: usually the
    first steps, later ones reliably only with `watch(every=...)`. A process group that is
    initialised after `watch` is not known.
    ## References
    Li et al., "PyTorch Distributed", 2020, arXiv:2006.15704, section 3; Stich, "Local SGD Converges
    Fast and Communicates Little", 2019, arXiv:1805.09767; Douillard et al., "DiLoCo", 2023,
    arXiv:2311.08105; Hochschild et al., "Cores that Don't Count", 2021; docs/frameworks.md.
    """

    code: ClassVar[str] = "TV953"
    stage: ClassVar[Stage] = Stage.WIRING
    permanent: ClassVar[bool] = False
    fix: ClassVar[str] = ""
    refuted_by: ClassVar[str] = "A sum over each parameter is the same on all ranks."

    equal_max: float = threshold(1e-5, "Relative difference up to which two norms are equal.")
    steps_equal: int = threshold(
        10, "Common steps with equal gradient norms that prove a reduction over the ranks."
    )
    weight_max: float = threshold(1e-5, "Relative difference of the L2 norms of a parameter.")
    steps_weight: int = threshold(3, "Newest common steps at which a parameter must differ.")
    gradient_max: float = threshold(1e-3, "Relative difference of two gradient norms.")
    steps_gradient: int = threshold(10, "Newest common steps at which the gradients must differ.")
    steps_apart: int = threshold(
        64, "Common steps, from the first, with different gradients that show separate models."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run: the largest difference, or separate models."""
        found = [
            difference
            for rank, other in sorted(history.ranks.items())
            if (difference := self._difference(history, rank, other)) is not None
        ]
        if not found:
            yield from self._separate(history)
            return
        worst = max(found, key=lambda d: (d.name != GRADIENT, d.relative))
        limit = self.gradient_max if worst.name == GRADIENT else self.weight_max
        what = worst.name if worst.name == GRADIENT else f"the L2 norm of {worst.name}"
        yield self.finding(
            severity=Severity.ERROR,
            where="" if worst.name == GRADIENT else worst.name,
            since_step=worst.since,
            summary=f"Rank divergence: from step {worst.since} on, {what} is "
            f"{number(worst.other, 6)} on rank {worst.rank} and {number(worst.first, 6)} on the "
            f"lowest rank; {len(found)} of {len(history.ranks)} compared ranks differ.",
            evidence=(
                Evidence(
                    quantity=f"relative difference of {what}",
                    seen=worst.relative,
                    limit=limit,
                    direction="above",
                    healthy=(0.0, self.equal_max / 10),
                ),
                Evidence(quantity="value on the lowest rank", seen=worst.first),
                Evidence(quantity=f"value on rank {worst.rank}", seen=worst.other),
                Evidence(quantity="ranks that differ", seen=float(len(found))),
            ),
            confidence=0.9,
        )

    def _separate(self, history: History) -> Iterator[Finding]:
        """Yield a finding if every rank that sends gradients trains a model of its own."""
        if float(history.facts.get("world_size", 1)) < 2 or "sharding" in history.facts:
            return
        known = {
            rank: other
            for rank, other in history.ranks.items()
            if len(gradient_norms(history, other, self.steps_apart).steps) >= self.steps_apart
        }
        found = [
            separate(
                history,
                rank,
                other,
                steps_apart=self.steps_apart,
                steps_weight=self.steps_weight,
                equal_max=self.equal_max,
                gradient_max=self.gradient_max,
            )
            for rank, other in sorted(known.items())
        ]
        apart = [one for one in found if one is not None]
        if not apart or len(apart) < len(found):
            return
        worst = max(apart, key=lambda one: one.relative)
        norms = worst.norms
        is_equal = all(one.start_is_equal for one in apart)
        advice = WRAP_THE_WHOLE if worst.outside else ""
        if "." in str(history.facts.get("data_parallel", "")).split(","):
            advice = CALL_THE_WRAPPER
        is_certain = is_equal and not worst.outside
        yield self.finding(
            severity=Severity.ERROR if is_certain else Severity.INFO,
            since_step=int(norms.steps[0]),
            summary=_summary(worst, start_is_equal=is_equal),
            evidence=(
                Evidence(
                    quantity="median relative difference of the gradient norms",
                    seen=float(np.median(norms.relative)),
                    limit=self.gradient_max,
                    direction="above",
                    healthy=(0.0, self.equal_max / 10),
                ),
                Evidence(quantity="gradient norm on the lowest rank", seen=float(norms.ours[-1])),
                Evidence(
                    quantity=f"gradient norm on rank {worst.rank}", seen=float(norms.theirs[-1])
                ),
                Evidence(quantity=f"L2 norm of {worst.name} on the lowest rank", seen=worst.first),
                Evidence(
                    quantity=f"L2 norm of {worst.name} on rank {worst.rank}", seen=worst.other
                ),
                Evidence(quantity="ranks that differ", seen=float(len(apart))),
            ),
            fix="" if advice else WRAP,
            advice=advice,
            confidence=0.9 if is_certain else 0.5,
        )

    def _difference(self, history: History, rank: int, other: History) -> _Difference | None:
        norms = gradient_norms(history, other, self.steps_equal)
        equal = norms.ours[norms.relative <= self.equal_max]
        # Norms that were clipped to one value are equal on independent ranks too.
        if len({f"{value:.3e}" for value in equal}) < self.steps_equal:
            return None
        difference = self._of_weights(history, rank, other)
        if difference is not None:
            return difference
        run = trailing(norms.relative > self.gradient_max)
        if run < self.steps_gradient:
            return None
        values = float(norms.ours[-1]), float(norms.theirs[-1])
        since = int(norms.steps[-run])
        return _Difference(rank, GRADIENT, since, float(norms.relative[-1]), *values)

    def _of_weights(self, history: History, rank: int, other: History) -> _Difference | None:
        seen = weights(history, other)
        if seen is None or len(seen.steps) < self.steps_weight:
            return None
        n = self.steps_weight
        # All parameters at the newest steps only; the course of the one that differs most.
        newest = relative(seen.ours[-n:], seen.theirs[-n:])
        differs = (newest > self.weight_max).all(axis=0)
        if not differs.any():
            return None
        at = int(np.argmax(np.where(differs, newest[-1], -1.0)))
        ours, theirs = seen.ours[:, at], seen.theirs[:, at]
        run = trailing(relative(ours, theirs) > self.weight_max)
        return _Difference(
            rank,
            seen.places[at].name,
            int(seen.steps[-run]),
            float(newest[-1, at]),
            float(ours[-1]),
            float(theirs[-1]),
        )

    @staticmethod
    def sick() -> History:
        """Return two ranks, one of which has a changed weight from step 20 on."""
        return _two_ranks(np.where(np.arange(40) < 20, 3.0, 3.1))

    @staticmethod
    def healthy() -> History:
        """Return two ranks whose norms differ by the rounding of different devices."""
        return _two_ranks(np.full(40, 3.0 * (1 + 1e-6)))


def _summary(worst: Separate, *, start_is_equal: bool) -> str:
    norms = worst.norms
    models = "separate models"
    if worst.outside:
        models = (
            f"{worst.outside} of {worst.parameters} parameters, those outside of "
            "DistributedDataParallel, separately"
        )
    start = "were equal at the first step and differ from" if start_is_equal else "differ from"
    return (
        f"The ranks train {models}: gradients are not averaged. At step {int(norms.steps[-1])}, "
        f"the gradient norm is {number(float(norms.theirs[-1]), 4)} on rank {worst.rank} and "
        f"{number(float(norms.ours[-1]), 4)} on the lowest rank. The weights {start} step "
        f"{worst.since} on: the L2 norm of {worst.name} is now {number(worst.other, 6)} and "
        f"{number(worst.first, 6)}."
    )


def _two_ranks(weight: Floats) -> History:
    place = Place("0.weight", kind="weight", shape=(10, 10), depth=0, module="0")
    norms = 1 + np.random.default_rng(0).random(len(weight))

    def rank(l2: Floats) -> History:
        example = Example(len(l2)).scalars(loss=2.0, gradient_norm=norms)
        return example.stream(Stream.WEIGHT, [place], {place.name: {Stat.L2: l2}}).history

    history = rank(np.full(len(weight), 3.0))
    history.ranks[1] = rank(weight)
    return history
