"""TV204: a network of linear layers without a nonlinearity between them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import Moment, at
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.initial import START, Gain, weight_gains
from trainvitals.diagnosis.places import window
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.wire import EventKind, Place, Stat, Stream

_PLAIN = ("Linear", "Conv1d", "Conv2d", "Conv3d")
_IGNORED = ("Dropout", "Dropout1d", "Dropout2d", "Identity", "Flatten")
_UNITS_MIN = 8
"""Outputs of a layer from which its mean signal follows from the scale of its weights."""


@dataclass(frozen=True)
class MissingNonlinearity(Rule):
    """The whole network is linear: its layers follow each other without a nonlinearity.

    ## What it detects
    The graph of the model's first output contains at least three layers in a row and no operation
    that is not linear, apart from norms. Where the graph is not known, by the measured signal:
    a network of at least three linear or convolution layers, each with as many inputs as the one
    before has outputs, and nothing else: no activation as a module or in the graph of the forward
    pass, no normalisation, attention or recurrent layer. At the start, the standard deviation
    across samples of each layer's output must be that of the output before times the gain of its
    weights, within a factor of 1.4: a nonlinearity that is not recognised changes it. Layers with
    fewer than 8 outputs are left out of this comparison; a network of such layers only is reported
    without it.
    ## Why it matters
    Linear layers in a row compute a single linear map. The network can fit no more than a linear
    regression, however many layers it has.
    ## Evidence
    The number of layers, and how far the measured signal is from that of a linear network.
    ## What to do
    Put an activation, such as `nn.ReLU()` or `nn.GELU()`, after each hidden layer.
    ## When it is wrong
    Deep linear networks for study, and factorised linear maps. A single missing activation in a
    network that has others is not reported: parallel projections look the same.
    ## References
    Goodfellow, Bengio & Courville, "Deep Learning", 2016, section 6.1; Saxe, McClelland & Ganguli,
    "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks", 2014,
    arXiv:1312.6120.
    """

    code: ClassVar[str] = "TV204"
    stage: ClassVar[Stage] = Stage.WIRING
    damages_loss: ClassVar[bool] = False
    permanent: ClassVar[bool] = True
    explains: ClassVar[frozenset[str]] = frozenset({"TV501", "TV806", "TV502", "TV507"})
    needs: ClassVar[tuple[Need, ...]] = (Stream.WEIGHT, Stream.ACTIVATION)
    fix: ClassVar[str] = ""
    refuted_by: ClassVar[str] = "The forward pass applies a nonlinear function between two layers."

    layers_min: int = threshold(3, "Minimum number of linear layers in the chain.")
    deviation_max: float = threshold(
        1.4, "Factor between the signal and that of a linear layer; fires up to this value."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding, at the first layer after which a nonlinearity is missing."""
        for event in history.events:
            if event.kind == EventKind.LINEAR_NETWORK:
                yield self._of_graph(event.text.split(","))
                return
        chain = self._chain(history)
        if chain is None:
            return
        deviation = self._deviation(history, chain)
        narrow = all(g.place.shape[0] < _UNITS_MIN for g in chain)
        if not narrow and not deviation <= self.deviation_max:
            return
        yield self.finding(
            severity=Severity.WARNING,
            where=chain[0].place.module,
            since_step=int(history.steps(Stream.WEIGHT)[0]),
            summary=(
                f"Missing nonlinearity: the {len(chain)} layers from {chain[0].place.module} to "
                f"{chain[-1].place.module} follow each other directly, so the network is linear."
            ),
            evidence=(
                *(() if narrow else (self._evidence(deviation),)),
                Evidence(quantity="linear layers in a row", seen=float(len(chain))),
            ),
            fix=_with_relu([g.place.module for g in chain[:-1]]),
            confidence=0.6 if narrow else 0.85,
            stream=Stream.ACTIVATION,
            statistic=Stat.SAMPLE_STD,
        )

    def _of_graph(self, weights: list[str]) -> Finding:
        """Return the finding of a network whose graph contains no nonlinear operation."""
        layers = [name.rpartition(".")[0] for name in weights]
        return self.finding(
            severity=Severity.WARNING,
            where=layers[0],
            since_step=0,
            summary=f"Missing nonlinearity: no operation between the {len(layers)} layers from "
            f"{layers[0]} to {layers[-1]} is nonlinear, apart from norms.",
            evidence=(
                Evidence(
                    quantity="layers in a row in a graph without a nonlinear operation",
                    seen=float(len(layers)),
                    limit=float(self.layers_min),
                    direction="above",
                    healthy=(0.0, 2.0),
                    text=", ".join(layers[:16]),
                ),
            ),
            fix=_with_relu(list(dict.fromkeys(layers[:-1]))),
            confidence=0.9,
            stream=Stream.ACTIVATION,
            statistic=Stat.SAMPLE_STD,
        )

    def _evidence(self, deviation: float) -> Evidence:
        return Evidence(
            quantity="largest factor between a layer's signal and that of a linear layer",
            seen=deviation,
            limit=self.deviation_max,
            direction="below",
            healthy=(1.5, None),
            text="1 is linear; ReLU between the layers gives 1.7",
        )

    def _chain(self, history: History) -> list[Gain] | None:
        """Return the weights of a network that consists of linear layers only; None otherwise."""
        weights = history.places(Stream.WEIGHT)
        modules = history.places(Stream.ACTIVATION)
        if any(p.kind not in ("weight", "bias") or p.module_kind not in _PLAIN for p in weights):
            return None
        if any(p.kind not in (*_PLAIN, *_IGNORED) or p.nonlinearity for p in modules):
            return None
        chain = weight_gains(history)
        if len(chain) < self.layers_min or len(chain) != sum(p.kind == "weight" for p in weights):
            return None
        if any(g.place.nonlinearity or g.place.depth < 0 for g in chain):
            return None
        fits = all(b.place.shape[1] == a.place.shape[0] for a, b in pairwise(chain))
        return chain if fits else None

    def _deviation(self, history: History, chain: list[Gain]) -> float:
        """Return the largest factor by which a layer's signal differs from the linear one's."""
        places = {p.name: i for i, p in enumerate(history.places(Stream.ACTIVATION))}
        if any(g.place.module not in places for g in chain):
            return math.nan
        rows = [places[g.place.module] for g in chain]
        seen = window(history, Stream.ACTIVATION, Stat.SAMPLE_STD, rows, first=1)
        if len(seen.steps) == 0 or seen.steps[0] > START:
            return math.nan
        signal = [float(x) for x in seen.values[0]]
        factors = []
        for (before, after), gain in zip(pairwise(signal), chain[1:], strict=True):
            expected = before * gain.value
            if not (expected > 0 and after > 0):
                return math.nan
            if gain.place.shape[0] >= _UNITS_MIN:
                factors += [after / expected, expected / after]
        return max(factors, default=math.nan)

    @staticmethod
    def sick() -> History:
        """Return four layers whose signal shrinks by the gain of each."""
        return _run(0.58)

    @staticmethod
    def healthy() -> History:
        """Return four layers with an unknown function between that halves the signal."""
        return _run(0.58 * 0.5)


def _with_relu(names: list[str]) -> str:
    """Return the fix that puts a ReLU behind each of these layers."""
    return at(
        Moment.BEFORE_TRAINING,
        f"for name in {names}:\n"
        "    model.set_submodule(name, nn.Sequential(model.get_submodule(name), nn.ReLU()))",
    )


def _run(factor: float) -> History:
    weights = [Place(f"{i}.weight", "weight", (32, 32), i, str(i), "Linear") for i in range(4)]
    modules = [Place(str(i), "Linear", depth=i, module=str(i)) for i in range(4)]
    l2 = 0.58 * math.sqrt(32)
    return (
        Example(3)
        .stream(Stream.WEIGHT, weights, {p.name: {Stat.L2: l2} for p in weights})
        .stream(
            Stream.ACTIVATION,
            modules,
            {p.name: {Stat.SAMPLE_STD: factor**i} for i, p in enumerate(modules)},
        )
        .history
    )
