"""How many of the supervised targets of a token model stand beside padding, and how often its most
frequent token occurs.

Comes in: token numbers of shape (samples, positions), the targets at these positions.
Goes out: a 0-dim tensor on their device, without a synchronisation; nothing for other models.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor, nn

from trainvitals.capture.supervised_values import sample
from trainvitals.wire import Scalar

TOKENS_MAX: Final = 1_024
"""Maximum number of tokens of a batch that are counted."""


def padding_of(models: Iterable[nn.Module]) -> int | None:
    """Return the `padding_idx` of the embeddings; None without one, or if they have several."""
    known = {
        module.padding_idx
        for model in models
        for module in model.modules()
        if isinstance(module, nn.Embedding) and module.padding_idx is not None
    }
    return known.pop() if len(known) == 1 else None


class TokenShare:
    """Measures the most frequent token of the inputs of models with embeddings."""

    def __init__(self, models: Iterable[nn.Module]) -> None:
        kinds = (nn.Embedding, nn.EmbeddingBag)
        known = [m for model in models for m in model.modules() if isinstance(m, kinds)]
        self._has_embeddings = bool(known)
        self._padding = {m.padding_idx for m in known if m.padding_idx is not None}

    def take(self, x: Tensor) -> dict[str, Tensor]:
        """Return the share of the most frequent token; 0 if that is a `padding_idx`.

        Empty for other inputs than token numbers of shape (samples, positions).
        """
        if not self._has_embeddings or x.dtype not in (torch.int32, torch.int64) or x.dim() != 2:
            return {}
        tokens = sample(x.detach(), entries=TOKENS_MAX).reshape(-1)
        usual = tokens.mode().values
        share = (tokens == usual).float().mean()
        for padding in self._padding:
            share = share * (usual != padding)
        return {Scalar.INPUT_TOKEN_SHARE: share}


def padded_share(
    x: Tensor, target: Tensor, keep: Tensor | None, padding: int | None
) -> dict[str, Tensor]:
    """Return the share of the supervised targets, class numbers, whose input token is padding.

    `keep` tells which sampled entries of the target count in the loss; None: all. Empty unless
    there is one target for each token.
    """
    if padding is None or target.is_floating_point():
        return {}
    if x.is_floating_point() or x.dtype == torch.bool:
        return {}
    if x.dim() != 2 or target.numel() != x.numel() or target.device != x.device:
        return {}
    padded = sample(x.reshape(target.shape)) == padding
    if keep is None:
        return {Scalar.PADDED_TARGETS_SHARE: padded.float().mean()}
    return {Scalar.PADDED_TARGETS_SHARE: (padded & keep).sum() / keep.sum().clamp_min(1)}
