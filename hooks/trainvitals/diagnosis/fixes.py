"""Fixes that several rules offer, as PyTorch code that runs on any model."""

from __future__ import annotations

from typing import Final

HE_INITIALISATION: Final = (
    "for m in model.modules():\n"
    "    if isinstance(m, (nn.Linear, nn.Conv2d)):\n"
    "        nn.init.kaiming_normal_(m.weight, nonlinearity='relu')"
)
ORTHOGONAL_RECURRENCE: Final = (
    "for name, w in model.named_parameters():\n"
    "    if 'weight_hh' in name:\n"
    "        nn.init.orthogonal_(w)"
)
