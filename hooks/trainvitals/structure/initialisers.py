"""The initialiser of each parameter of a model.

Comes in: parameters, or samples of them. Goes out: name → `Initialiser`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from torch import Tensor, nn

from trainvitals.api.schema import Initialiser
from trainvitals.structure.fans import CONVOLUTIONS, TRANSPOSED, Fans, fans_of
from trainvitals.structure.identify import identify
from trainvitals.structure.parameters import Parameter, local_of, reason_not_measured

ENTRIES_MAX: Final = 4096
"""Maximum number of entries of a sample, if it is not the whole tensor."""


class Sample(NamedTuple):
    """Entries of one parameter and its fans: whole rows, or whole columns of a tall matrix."""

    name: str
    entries: Tensor
    fans: Fans | None


def sampled(parameter: Parameter, entries_max: int | None = None) -> Sample | None:
    """Return a copy of at most about `entries_max` entries (None: all, without a copy).

    None if the parameter cannot be measured, is empty or is a shard: of a part, in another shape,
    the fans are not known.
    """
    tensor = local_of(parameter.tensor).detach()
    if reason_not_measured(tensor) is not None or tensor.numel() == 0:
        return None
    is_matrix = isinstance(parameter.owner, (nn.Linear, *CONVOLUTIONS, *TRANSPOSED))
    own_name = parameter.name.rpartition(".")[2]
    if tensor.shape != parameter.tensor.shape or (
        is_matrix and own_name == "weight" and tensor.dim() < 2
    ):
        return None
    entries = tensor
    if entries_max is not None:
        rows = tensor.shape[0] if tensor.dim() else 1
        if tensor.dim() > 1 and rows > tensor.numel() // rows:
            # Of a tall matrix, the columns can be orthogonal, not the rows.
            entries = tensor[:, : max(2, entries_max // rows)]
        elif tensor.dim():
            entries = tensor[: max(2, entries_max * rows // tensor.numel())]
        entries = entries.clone()
    return Sample(parameter.name, entries, _fans(parameter, own_name))


def identified(samples: Iterable[Sample]) -> dict[str, Initialiser]:
    """Return the initialiser of each sample; unknown if an entry is not finite."""
    found = {}
    for name, entries, fans in samples:
        if not entries.isfinite().all():
            found[name] = Initialiser(name="unknown")
        elif fans is None:
            found[name] = identify(entries)
        else:
            fan_out = fans.fan_out if entries.dim() > 1 else None
            found[name] = identify(entries, fan_in=fans.fan_in, fan_out=fan_out)
    return found


def _fans(parameter: Parameter, own_name: str) -> Fans | None:
    """Return the fans of a weight, and for a bias those of the weight beside it."""
    fans = fans_of(parameter.owner, own_name, parameter.tensor)
    weight = getattr(parameter.owner, "weight", None)
    if fans is None and own_name == "bias" and isinstance(weight, Tensor) and weight.dim() > 1:
        return fans_of(parameter.owner, "weight", weight)
    return fans
