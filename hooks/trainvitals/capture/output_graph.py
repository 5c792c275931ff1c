"""What the graph of a model's first output shows, once for a run.

Comes in: the models, then what one of them was called with and what it returned in a training step.
Goes out: events, and scalars as 0-dim tensors on the device.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainvitals.capture.attention_graph import AttentionGraph
from trainvitals.capture.linear_graph import LinearGraph
from trainvitals.capture.mixed_dimensions import MixedDimensions
from trainvitals.capture.supervised_inputs import Given
from trainvitals.wire import Event


class OutputGraph:
    """Examines the graph of one output of a run; `is_taken` is whether it has."""

    def __init__(self, models: Mapping[str, nn.Module], mixed: MixedDimensions) -> None:
        self.is_taken = False
        self._linear = LinearGraph(models)
        self._attention = AttentionGraph(models)
        self._mixed = mixed

    def take(
        self, step: int, given: Given, output: Tensor
    ) -> tuple[list[Event], dict[str, Tensor]]:
        """Return what the graph of `output` shows."""
        self.is_taken = True
        with torch.no_grad():
            attention, scalars = self._attention.take(step, given.first, output)
        events = (self._linear.event(step, output), attention)
        mixed = self._mixed.events(step, given.first, output)
        return [*(event for event in events if event is not None), *mixed], scalars
