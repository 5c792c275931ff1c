"""Whether the output of a sample depends on the other samples of its batch.

Comes in: a model and a batch. Goes out: a finding if it does in eval mode.
Start at `of_other_samples`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from trainvitals.api.schema import Evidence, Finding, Severity
from trainvitals.api.wording import percent
from trainvitals.checkups.batches import called, divided, prediction_of
from trainvitals.checkups.preserve import preserved, random_states_preserved
from trainvitals.diagnosis.mixed_dimensions import ADVICE
from trainvitals.diagnosis.rules.label_noise import LabelNoise

SAMPLES_MIN = 3
CHANGE_MAX = 1e-3
"""Change of an output, relative to the outputs' spread, that rounding can cause."""


def change_by_others(model: nn.Module, batch: object) -> float | None:
    """Return how much the first sample's output changes if the other samples are replaced.

    Relative to the largest distance of an output from the mean of all. None where dimension 0 can
    be something else than samples, where norms use the batch in eval mode, and where the model does
    not run in eval mode.
    """
    x, _ = divided(batch)
    if (
        not isinstance(x, Tensor)
        or x.dim() < 2
        or len(x) < SAMPLES_MIN
        or not _is_of_samples(model)
    ):
        return None
    if x.dim() == 2 and _reads_sequences(model) and x.is_floating_point():
        return None  # one sequence without a dimension for samples
    replaced = x.clone()
    replaced[1:] = x[1]
    with preserved(model), torch.no_grad():
        model.eval()
        try:
            before, after = _output(model, x), _output(model, replaced)
        except Exception:  # noqa: BLE001 - it ran in the mode in which it will be trained
            return None
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return None
    if not _is_for_each_sample(before, x):
        return None
    before, after = before.float(), after.float()
    spread = (before - before.mean(0)).abs().amax()
    change = (after[0] - before[0]).abs().amax() / spread
    return float(change) if bool(change.isfinite()) else None


def of_other_samples(change: float | None) -> Iterator[Finding]:
    """Yield a finding if the output of a sample changed by more than rounding."""
    if change is None or change <= CHANGE_MAX:
        return
    yield LabelNoise().finding(
        severity=Severity.WARNING,
        since_step=0,
        summary="The model mixes the samples of a batch: in eval mode, the output of the first "
        f"sample changes by {percent(change)} of the outputs' spread when the other samples are "
        "replaced.",
        evidence=(
            Evidence(
                quantity="change of an output by the other samples, relative to the spread",
                seen=change,
                limit=CHANGE_MAX,
                direction="above",
                healthy=(0.0, 1e-5),
            ),
        ),
        advice=ADVICE,
        fix="",
        confidence=0.8,
    )


def _output(model: nn.Module, x: Tensor) -> object:
    with random_states_preserved():
        return prediction_of(called(model, x))


def _is_of_samples(model: nn.Module) -> bool:
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return all(norm.running_mean is not None for norm in norms)


def _reads_sequences(model: nn.Module) -> bool:
    kinds = (nn.RNNBase, nn.MultiheadAttention)
    return any(isinstance(module, kinds) for module in model.modules())


def _is_for_each_sample(output: Tensor, x: Tensor) -> bool:
    """Whether dimension 0 of the output is that of the samples, not times in front of samples."""
    if output.dtype in (torch.float16, torch.bfloat16):
        return False  # rounding can be above the limit
    if output.dim() == 0 or output.shape[0] != x.shape[0] or not output.is_floating_point():
        return False
    has_times = x.dim() > 2 or not x.is_floating_point()
    return not has_times or output.dim() < 2 or output.shape[1] != x.shape[1]
