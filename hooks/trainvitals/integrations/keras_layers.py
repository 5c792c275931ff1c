"""The layers of a Keras model, as torch modules with the names of Keras.

Comes in: a built Keras model. Goes out: a torch module that contains its weights and that is
called, with the same arguments and the same output, after each call of a layer.
Promise:  the model keeps its weights, hooks and results.

Keras registers weights under long names, in alphabetical order, and no layer as part of another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from torch import Tensor, nn


class LayerView(nn.Module):
    """A layer's own weights. A call returns the layer's latest output."""

    def __init__(self) -> None:
        super().__init__()
        self._output: object = None

    def forward(self, *_: object, **__: object) -> object:
        """Return the output that `returned` was given."""
        return self._output

    def returned(self, layer: object, args: tuple[Any, ...], output: object) -> None:
        """Take an output, as a forward hook of the layer."""
        if not self._forward_hooks:  # this step is not measured
            return
        self._output = channels_first(output, layer)
        try:
            self(*args)
        finally:
            self._output = None


def channels_first(output: object, layer: object) -> object:
    """Return an image-like output of a layer as (samples, channels, …), as torch's layers have it.

    In Keras the channels come last, unless the layer's `data_format` or the setting
    `image_data_format` says otherwise. Other outputs are returned unchanged.
    """
    if not isinstance(output, Tensor) or output.dim() < 4:
        return output
    order = getattr(layer, "data_format", None) or keras.config.image_data_format()
    return output.movedim(-1, 1).contiguous() if order == "channels_last" else output


class LayersOf:
    """Follows the layers of `model` until `remove`; `view` is the module to watch."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.view = LayerView()
        self._handles: list[Any] = []
        for layer in model._flatten_layers(include_self=False):
            # Others are statistics and states of random numbers, as torch's buffers are.
            weights = {v.name: v.value for v in layer._trainable_variables}
            trained = {name: p for name, p in weights.items() if isinstance(p, nn.Parameter)}
            if layer._flatten_layers(include_self=False) and not trained:
                continue  # a container: its parts are followed
            view = self._new_view(layer)
            for name, parameter in trained.items():
                view.register_parameter(name, parameter)
            self._follow(layer, view.returned)
        self._follow(model, self.view.returned)

    def remove(self) -> None:
        """Remove the hooks. Safe to call twice."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _new_view(self, layer: Any) -> LayerView:
        kind: Callable[[], LayerView] = type(type(layer).__name__, (LayerView,), {})
        view, name, count = kind(), layer.name.replace(".", "_"), 1
        while name in self.view._modules:
            count += 1
            name = f"{layer.name.replace('.', '_')}_{count}"
        self.view.add_module(name, view)
        return view

    def _follow(self, layer: Any, receive: Callable[..., None]) -> None:
        self._handles.append(layer.register_forward_hook(receive))
