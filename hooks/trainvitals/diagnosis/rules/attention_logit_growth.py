"""TV203: the softmax of an attention layer selects one position, from the start or by growth."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number
from trainvitals.diagnosis.attention import sharpest_attention
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.signals import Floats, middle
from trainvitals.diagnosis.trained_before import trained_before
from trainvitals.wire import Place, Scalar, Stat, Stream

_QUERY: Final = re.compile(r"^(q|wq|to_q|q_proj|query|q_lin|query_proj)$")
_KEY_OF: Final = {
    **{"q": "k", "wq": "wk", "to_q": "to_k", "q_proj": "k_proj", "query": "key"},
    **{"q_lin": "k_lin", "query_proj": "key_proj"},
}
_FUSED: Final = re.compile(r"^(qkv|to_qkv|qkv_proj|c_attn|wqkv|query_key_value|in_proj)$")


class _Pair(NamedTuple):
    """The projections of one attention; both are the same module if it computes q, k and v."""

    name: str
    query: str
    key: str


@dataclass(frozen=True)
class AttentionLogitGrowth(Rule):
    """The logits of an attention layer are so large that its softmax selects one position.

    ## What it detects
    The product of the RMS of the queries and the RMS of the keys, median of the newest five
    measured steps, is above 30 and ten times the smallest of the first five. The logits q·k/√d have
    a standard deviation of that product times √d if q and k are independent, d entries of a head:
    240 for d = 64. A note only, if the loss has fallen by 30 % since the start. Covered are
    attention layers whose projections are separate modules, named q and k, q_proj and k_proj, query
    and key, to_q and to_k, wq and wk, or one module named qkv, c_attn, in_proj or similar; also
    those that call `scaled_dot_product_attention`. Not covered: `nn.MultiheadAttention`, whose
    projections are not modules. Left out: layers with a normalisation beside the projections
    (QK-norm). Or at the first measured step, by the graph of the model's output: the mean over up
    to 64 queries of their largest weight is at least 0.95, of those that see four positions or
    more. A warning if the loss has not fallen by a tenth after 50 steps, then from 0.8 on; a note
    otherwise. That part covers `nn.MultiheadAttention` and leaves out models that were trained
    before.
    ## Why it matters
    A softmax of such logits is 1 at one position and 0 elsewhere: it passes no gradient, the layer
    attends to one token regardless of the input, and large models diverge soon after.
    ## Evidence
    The product now, its limit, and the product at the start; or the mean of the largest weights.
    ## What to do
    - Normalise the queries and keys of each head (QK-norm), or cap the logits.
    - From the start: divide the scores by the root of the width of a head, once; scale the
      embeddings to a deviation near 1, or normalise before the attention.
    - Lower the learning rate or lengthen its warm-up; the growth follows the learning rate.
    - There is no code: the normalisation belongs in the forward method of your attention.
    ## When it is wrong
    Queries and keys that a function normalises or scales afterwards (cosine attention).
    ## References
    Dehghani et al., "Scaling Vision Transformers to 22 Billion Parameters", 2023,
    arXiv:2302.05442; Wortsman et al., "Small-scale proxies for large-scale Transformer training
    instabilities", 2023, arXiv:2309.14322.
    """

    code: ClassVar[str] = "TV203"
    stage: ClassVar[Stage] = Stage.PROPAGATION
    fix: ClassVar[str] = ""
    refuted_by: ClassVar[str] = "The entropy of the attention is above a tenth of ln(positions)."

    product_max: float = threshold(30.0, "RMS of the queries times RMS of the keys.")
    growth_max: float = threshold(10.0, "That product divided by its value at the start.")
    steps: int = threshold(5, "Measured steps at the start, and newest ones in the median.")
    largest_max: float = threshold(
        0.95, "Mean of the largest weights of the queries at the first measured step."
    )
    largest_stuck: float = threshold(0.8, "The same where the loss does not fall.")
    steps_stuck: int = threshold(50, "Minimum number of losses that have not fallen.")
    fall_min: float = threshold(
        0.1, "Fall of the loss as a share of the initial loss, below which it does not fall."
    )
    learned_max: float = threshold(
        0.3, "Fall of the loss as a share of the initial loss, from which it is a note."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding: the attention layer with the largest product, or the sharpest one."""
        finding = self._grown(history) or self._sharp(history)
        if finding is not None:
            yield finding

    def _sharp(self, history: History) -> Finding | None:
        """Return a finding if an attention selects one position at the first measured step."""
        sharpest, course = sharpest_attention(history), Course(history)
        if sharpest is None or trained_before(history, course.initial):
            return None
        is_stuck = (
            course.known
            and len(course.loss) >= self.steps_stuck
            and not course.learned(share=self.fall_min)
        )
        limit = self.largest_stuck if is_stuck else self.largest_max
        if sharpest.largest < limit:
            return None
        return self.finding(
            severity=Severity.WARNING if is_stuck else Severity.INFO,
            where=sharpest.where,
            since_step=sharpest.step,
            summary=f"Attention selects one position from the start: the largest weight of a query "
            f"is {number(sharpest.largest)} on average"
            f"{', and the loss does not fall' if is_stuck else ''}.",
            evidence=(
                Evidence(
                    quantity="mean of the largest weights of the queries",
                    seen=sharpest.largest,
                    limit=limit,
                    direction="above",
                    healthy=(0.0, 0.5),
                    unit="share",
                    statistic=Scalar.ATTENTION_LARGEST,
                ),
            ),
            confidence=0.8,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    def _grown(self, history: History) -> Finding | None:
        """Return a finding at the attention layer with the largest product, if it has grown."""
        found = []
        for pair in _pairs(history):
            product = _rms(history, pair.query) * _rms(history, pair.key)
            steps = history.steps(Stream.ACTIVATION)[np.isfinite(product)]
            product = product[np.isfinite(product)]
            if len(product) < 2 * self.steps:
                continue
            first = float(product[: self.steps].min())
            now = middle(product[-self.steps :])
            if now > self.product_max and now > self.growth_max * first:
                since = int(steps[np.flatnonzero(product > self.product_max)[0]])
                found.append((now, first, since, pair))
        if not found:
            return None
        now, first, since, pair = max(found, key=lambda f: f[0])
        learned = Course(history).learned(share=self.learned_max)
        return self.finding(
            severity=Severity.INFO if learned else Severity.WARNING,
            where=pair.query,
            since_step=since,
            summary=f"Attention logit growth: in {pair.name} the RMS of the queries times that of "
            f"the keys is {number(now)}, and was {number(first)} at the start.",
            evidence=(
                Evidence(
                    quantity="RMS of the queries times RMS of the keys",
                    seen=now,
                    limit=self.product_max,
                    direction="above",
                    healthy=(0.01, self.product_max / 3),
                ),
                Evidence(
                    quantity="growth since the start",
                    seen=now / max(first, 1e-30),
                    limit=self.growth_max,
                    direction="above",
                    unit="times",
                ),
                Evidence(quantity="attention layers that are above", seen=float(len(found))),
            ),
            confidence=0.8,
            stream=Stream.ACTIVATION,
            statistic=Stat.STD,
        )

    @staticmethod
    def sick() -> History:
        """Return queries and keys that grow to 20 each while the loss stays level."""
        return _run(np.linspace(0.5, 20, 60))

    @staticmethod
    def healthy() -> History:
        """Return queries and keys that grow to 2 each."""
        return _run(np.linspace(0.5, 2, 60))


def _pairs(history: History) -> Iterator[_Pair]:
    places = history.places(Stream.ACTIVATION)
    names = {p.name for p in places}
    normed = {p.name.rpartition(".")[0] for p in places if "Norm" in p.kind}
    for place in places:
        parent, _, leaf = place.name.rpartition(".")
        if place.kind != "Linear" and place.kind != "Conv1D":
            continue
        if parent in normed or any(n.startswith(f"{parent}.") for n in normed):
            continue
        key = f"{parent}.{_KEY_OF.get(leaf, '')}" if parent else _KEY_OF.get(leaf, "")
        if _QUERY.match(leaf) and key in names:
            yield _Pair(parent, place.name, key)
        elif _FUSED.match(leaf):
            yield _Pair(parent, place.name, place.name)


def _rms(history: History, module: str) -> Floats:
    mean, std = (
        history.series(Stream.ACTIVATION, stat, module).values.astype(np.float64)
        for stat in (Stat.MEAN, Stat.STD)
    )
    rms: Floats = np.hypot(mean, std)
    return rms


def _run(size: Floats) -> History:
    places = [Place(f"block.attention.{n}", kind="Linear", depth=i) for i, n in enumerate("qk")]
    columns = {p.name: {Stat.MEAN: np.zeros(len(size)), Stat.STD: size} for p in places}
    example = Example(len(size)).scalars(loss=np.full(len(size), 2.7))
    return example.stream(Stream.ACTIVATION, places, columns).history
