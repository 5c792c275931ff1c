"""TV953: the ranks of a data-parallel run no longer have the same weights or gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.signals import Floats
from trainvitals.wire import Place, Scalar, Stat, Stream

GRADIENT: Final = "gradient norm"
_NORMS: Final = (Scalar.GRADIENT_NORM_BEFORE_CLIPPING, Scalar.GRADIENT_NORM)


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
    """The ranks of a data-parallel run have different weights, or different gradients.

    ## What it detects
    The run is data-parallel: in ten steps or more, another rank has the gradient norm of the lowest
    rank (to 0.001 %, before clipping, and ten different values), as after a reduction. Then one of:
    in the newest three steps at which both ranks measured their weights, the L2 norm of a parameter
    differs by more than 0.001 %; or the gradient norms of the newest ten common steps all differ by
    more than 0.1 %. Left out: parameters that are divided over the ranks (FSDP, tensor
    parallelism), and ranks whose gradient norms were never equal (independent trainings that share
    a run). The collector compares the ranks: up to seven besides the lowest, one more in each
    round. The training processes do not communicate for this.
    ## Why it matters
    The gradients are averaged as if all ranks had one model. With different models the average fits
    none of them; the checkpoint of rank 0 is not the model that the others train.
    ## Evidence
    The relative difference, its limit, the values of both ranks, and the first step that differs.
    ## What to do
    - Look for code that only one rank runs and that changes weights: a loaded checkpoint, an
      initialisation after DistributedDataParallel was made, a clipping or an average of weights.
    - Seed each rank alike before the model is made, or make DistributedDataParallel afterwards.
    - If one machine is affected alone, test its memory and its GPU: silent data corruption.
    - Continue from an earlier checkpoint; `torch.distributed.broadcast` of each parameter from
      rank 0 makes the ranks equal again. There is no code that removes the cause.
    ## When it is wrong
    Methods that let the ranks differ for a while after a common start (local SGD), and parameters
    that are local to each rank. Weights are compared at steps that both ranks measured in full:
    usually the first steps, later ones reliably only with `watch(every=...)`.
    ## References
    Li et al., "PyTorch Distributed", 2020, arXiv:2006.15704, section 3; Hochschild et al., "Cores
    that Don't Count", 2021; docs/frameworks.md.
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

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run: the largest difference of a weight, or of a gradient."""
        found = [
            difference
            for rank, other in sorted(history.ranks.items())
            if (difference := self._difference(history, rank, other)) is not None
        ]
        if not found:
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

    def _difference(self, history: History, rank: int, other: History) -> _Difference | None:
        for name in _NORMS:
            ours, theirs = (h.scalar(name).finite() for h in (history, other))
            steps, i, j = np.intersect1d(ours.steps, theirs.steps, return_indices=True)
            if len(steps) >= self.steps_equal:
                break
        norms = _relative(ours.values[i, None], theirs.values[j, None])
        equal = ours.values[i][norms[:, 0] <= self.equal_max]
        # Norms that were clipped to one value are equal on independent ranks too.
        if len({f"{value:.3e}" for value in equal}) < self.steps_equal:
            return None
        weights = self._of_weights(history, rank, other)
        if weights is not None:
            return weights
        run = _trailing(norms[:, 0] > self.gradient_max)
        if run < self.steps_gradient:
            return None
        values = float(ours.values[i[-1]]), float(theirs.values[j[-1]])
        return _Difference(rank, GRADIENT, int(steps[-run]), float(norms[-1, 0]), *values)

    def _of_weights(self, history: History, rank: int, other: History) -> _Difference | None:
        rows = {p.name: k for k, p in enumerate(other.places(Stream.WEIGHT))}
        both = [
            (k, rows[p.name])
            for k, p in enumerate(history.places(Stream.WEIGHT))
            if p.name in rows
            and "shard" not in p.flags
            and p.shape == other.places(Stream.WEIGHT)[rows[p.name]].shape
        ]
        steps, i, j = np.intersect1d(
            history.steps(Stream.WEIGHT), other.steps(Stream.WEIGHT), return_indices=True
        )
        if not both or len(steps) < self.steps_weight:
            return None
        mine, its = np.array(both).T
        mine_l2, its_l2 = (
            history.values(Stream.WEIGHT, Stat.L2),
            other.values(Stream.WEIGHT, Stat.L2),
        )
        n = self.steps_weight
        # All parameters at the newest steps only; the course of the one that differs most.
        newest = _relative(mine_l2[i[-n:, None], mine], its_l2[j[-n:, None], its])
        differs = (newest > self.weight_max).all(axis=0)
        if not differs.any():
            return None
        at = int(np.argmax(np.where(differs, newest[-1], -1.0)))
        ours, theirs = mine_l2[i, mine[at]], its_l2[j, its[at]]
        run = _trailing(_relative(ours, theirs) > self.weight_max)
        return _Difference(
            rank,
            history.places(Stream.WEIGHT)[mine[at]].name,
            int(steps[-run]),
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


def _relative(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> Floats:
    """Return |a − b| divided by the larger magnitude, 0 where both are 0 or one is not finite."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    scale = np.maximum(np.abs(x), np.abs(y))
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.abs(x - y) / scale
    return np.where(np.isfinite(relative), relative, 0.0)


def _trailing(flags: npt.NDArray[np.bool_]) -> int:
    """Return how many of the newest flags in a row are true."""
    false = np.flatnonzero(~flags)
    return len(flags) - (int(false[-1]) + 1 if len(false) else 0)


def _two_ranks(weight: Floats) -> History:
    place = Place("0.weight", kind="weight", shape=(10, 10), depth=0, module="0")
    norms = 1 + np.random.default_rng(0).random(len(weight))

    def rank(l2: Floats) -> History:
        example = Example(len(l2)).scalars(loss=2.0, gradient_norm=norms)
        return example.stream(Stream.WEIGHT, [place], {place.name: {Stat.L2: l2}}).history

    history = rank(np.full(len(weight), 3.0))
    history.ranks[1] = rank(weight)
    return history
