"""TV809: a view mixes the features and the positions of each sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trainvitals.api.schema import Finding, Severity, Stage
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.mixed_dimensions import FEATURES_AS_POSITIONS, mixed_features
from trainvitals.diagnosis.rule import Need, Rule
from trainvitals.wire import Event, EventKind, Scalar, Stream


@dataclass(frozen=True)
class ScrambledInput(Rule):
    """The input of a layer is reshaped where its dimensions had to be swapped.

    ## What it detects
    The input of a convolution, a recurrent or an attention module has the sizes of the tensor it is
    a view of, in another order: (samples, height, width, channels) as (samples, channels, height,
    width), or (samples, positions, features) as (samples, features, positions). Seen in the first
    training pass, from shapes and addresses alone. Not known where the sizes are equal, where the
    data were reshaped before they reached the model, and inside of compiled parts.
    ## Why it matters
    `view` and `reshape` keep the order of the values in memory. A channel of the result then
    contains values of all channels from neighbouring places: the program runs, but what a
    convolution or an attention takes for neighbours are none.
    ## Evidence
    The two shapes.
    ## What to do
    Swap the dimensions: `x.permute(0, 3, 1, 2)`, `x.transpose(1, 2)`. There is no code that can be
    executed from outside: the view is in the model's `forward`.
    ## When it is wrong
    A program that mixes features and positions on purpose.
    ## References
    The documentation of `torch.Tensor.view` and `torch.permute`, PyTorch 2.13, 2026; Karpathy,
    "A Recipe for Training Neural Networks", 2019 ("use backprop to chart dependencies").
    """

    code: ClassVar[str] = "TV809"
    stage: ClassVar[Stage] = Stage.WIRING
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = frozenset({"TV501", "TV502", "TV506"})
    before_training: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = (Scalar.LOSS,)
    fix: ClassVar[str] = ""
    refuted_by: ClassVar[str] = "With the dimensions swapped, the loss does not fall lower."

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding, at the layer that gets the view."""
        if (mixed := mixed_features(history)) is not None:
            yield self.finding(
                severity=Severity.WARNING,
                where=mixed.where,
                since_step=mixed.since,
                summary=f"Scrambled input: {mixed.text}, so that each feature contains values of "
                "all features.",
                evidence=(mixed.evidence,),
                confidence=0.9,
                stream=Stream.SCALAR,
                statistic=Scalar.LOSS,
            )

    @staticmethod
    def sick() -> History:
        """Return images with the channels last, given to a convolution as a view."""
        history = _losses()
        shapes = {"shape": "(32, 28, 28, 3)", "into": "(32, 3, 28, 28)"}
        attributes: dict[str, str | float] = {"module": "0", "kind": "Conv2d", **shapes}
        history.add(Event(0, 0.0, EventKind.MIXED_DIMENSIONS, FEATURES_AS_POSITIONS, attributes))
        return history

    @staticmethod
    def healthy() -> History:
        """Return the same losses without such a view."""
        return _losses()


def _losses() -> History:
    return Example(50).scalars(loss=[2.3 - 0.01 * step for step in range(50)]).history
